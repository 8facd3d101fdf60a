"The package's metadata, read from settings.ini, which nbdev reads too."
from configparser import ConfigParser
from pathlib import Path
import setuptools

settings = ConfigParser(delimiters=["="])
settings.read("settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]
name = settings["lib_name"]
words = lambda key: settings.get(key, "").split()
readme = Path("README.md")
extras = {extra: words(f"{extra}_requirements")
    for extra in ("charts", "tensorboard", "corpus", "eval", "onnx", "cluster", "approximate", "dev")}
extras["dev"] += extras["eval"] + extras["onnx"] + extras["approximate"]

setuptools.setup(
    name=name,
    version=settings["version"],
    description=settings["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    author=settings["author"],
    license="Apache-2.0",
    keywords=settings["keywords"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
    ],
    python_requires=f">={settings['min_python']}",
    install_requires=words("requirements"),
    extras_require=extras,
    # The tables of data/ travel inside the package; its folders (results, runs, cache) do not.
    packages=setuptools.find_packages(include=[name, f"{name}.*"]) + [f"{name}.tables"],
    package_dir={f"{name}.tables": "data"},
    package_data={name: ["py.typed"], f"{name}.tables": ["*.csv", "*.toml"]},
    include_package_data=False,
    zip_safe=False,
    entry_points={"console_scripts": words("console_scripts"), "nbdev": [f"{name}={name}._modidx:d"]},
)
