import pathlib
import re

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent
version = re.search(
    r'^__version__ = "(.+)"$',
    (here / "supervisor_hotreload" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
).group(1)

DEMO = ["gunicorn>=20.1"]


def for_pypi(text):
    """Return the README without its links to other files: a package index has only the README.

    The text of each link stays, with the name of the file, which a source distribution holds.
    """
    return re.sub(r"`([^`<]+) <((?:docs/)?\w+\.rst)>`_", r"\1 (``\2``)", text)


setup(
    name="supervisor_hotreload",
    version=version,
    description="A supervisord plugin that reloads web servers without dropping a request",
    long_description=for_pypi((here / "README.rst").read_text(encoding="utf-8")),
    long_description_content_type="text/x-rst",
    license="BSD-3-Clause",
    packages=find_packages(include=["supervisor_hotreload", "supervisor_hotreload.*"]),
    package_data={"supervisor_hotreload": ["py.typed"]},
    python_requires=">=3.9",
    install_requires=["supervisor>=4.2.5", "psutil>=5.9"],
    extras_require={
        "pyramid": [
            "pyramid>=2.0",
            "setuptools<82; python_version < '3.10'",  # Pyramid 2.0 imports pkg_resources
        ],
        "demo": DEMO,
        "docs": ["sphinx>=7"],
        "test": [
            *DEMO,
            "pytest>=7.4",
            "pytest-xdist>=3.3",
            "hypothesis>=6.100",
            "dumb-init>=1.2.5; sys_platform == 'linux'",
            "honcho>=1.1",
            "hypercorn>=0.14",
            "granian>=1.0",
            "ruff>=0.9",
            "mypy>=1.14",
            # the servers and frameworks of tests/forks
            "uwsgi>=2.0.22",
            "gevent>=22.10.2",
            "uvicorn>=0.29",
            "waitress>=2.1.2",
            "flask>=2.3",
            "django>=4.2",
            "sqlalchemy>=1.4.36",
            "pyramid>=2.0",
            "pyramid_debugtoolbar>=4.10",
            "setuptools<82; python_version < '3.10'",  # Pyramid 2.0 imports pkg_resources
        ],
    },
    entry_points={
        "console_scripts": [
            "hotreload-demo = supervisor_hotreload.demo:main",
            "hotreload-listener = supervisor_hotreload.listener.command:main",
            "hotreload-orphan = supervisor_hotreload.wrapper.orphan:main",
            "hotreload-run = supervisor_hotreload.wrapper.entry:main",
        ],
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
