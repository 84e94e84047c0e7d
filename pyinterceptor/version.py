"""The version, for the package, its metadata and the command line."""

VERSION = "0.1.0"
