import pathlib
import re

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent
version = re.search(
    r'^__version__ = "(.+)"$',
    (here / "supervisor_hotreload" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
).group(1)

setup(
    name="supervisor_hotreload",
    version=version,
    description="A supervisord plugin that reloads web servers without dropping a request",
    long_description=(here / "README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    license="BSD-3-Clause",
    packages=find_packages(include=["supervisor_hotreload", "supervisor_hotreload.*"]),
    package_data={"supervisor_hotreload": ["py.typed"]},
    python_requires=">=3.9",
    install_requires=["supervisor>=4.2.5", "psutil>=5.9"],
    extras_require={
        "test": [
            "pytest>=7",
            "hypothesis>=6.100",
            "gunicorn>=20.1",
            "hypercorn>=0.14",
            "uvicorn>=0.20",
            "waitress>=2.1",
            "ruff>=0.9",
            "mypy>=1.14",
        ],
    },
    entry_points={
        "console_scripts": ["hotreload-run = supervisor_hotreload.wrapper:main"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: No Input/Output (Daemon)",
        "Intended Audience :: System Administrators",
        "License :: OSI Approved :: BSD License",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Topic :: System :: Boot",
        "Topic :: System :: Monitoring",
        "Topic :: System :: Systems Administration",
    ],
)
