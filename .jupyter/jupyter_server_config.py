"What JupyterLab does in the environment of `make install`; `make hooks` copies this file and custom/ there."
import warnings
from pathlib import Path

from ipykernel.ipkernel import IPythonKernel
from jupyter_client.kernelspec import get_kernel_spec
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from nbdev.clean import clean_jupyter

class Contents(AsyncLargeFileManager):
    """Give notebooks out with the metadata that JupyterLab writes into each as soon as its kernel runs.

    nbdev keeps these out of the files. Without them, a notebook that was only opened counts as changed,
    and closing it asks whether to save."""
    async def get(self, path, *arguments, **more):
        model = await super().get(path, *arguments, **more)
        if model['type'] != 'notebook' or not model['content']: return model
        metadata = model['content']['metadata']
        if metadata.get('kernelspec', {}).get('name') == 'python3':
            spec = get_kernel_spec('python3')
            kernelspec = dict(name='python3', display_name=spec.display_name, language=spec.language)
            metadata.update(kernelspec=kernelspec, language_info=IPythonKernel.language_info)
        return model

c.ServerApp.contents_manager_class = Contents
c.ContentsManager.pre_save_hook = clean_jupyter    # notebooks are cleaned when they are saved
# there is no other hook: jupyter_server looks when this one stands there already (findings/)
warnings.filterwarnings('ignore', 'Overriding existing pre_save_hook')
c.LabApp.custom_css = True                          # custom/custom.css
c.ServerApp.tornado_settings = dict(static_custom_path=[str(Path(__file__).parent/'custom')])
