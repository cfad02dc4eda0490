"""The stable codes of what can be wrong with a spec. Knows no message and no place."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """A code never changes its meaning; a new finding gets a new number."""

    NO_FILE = "SPEC001"  #: no such file, or no spec in the folder
    NOT_REGULAR = "SPEC002"  #: not a regular file
    UNREADABLE = "SPEC003"  #: permission denied, or the disk failed
    EMPTY = "SPEC004"  #: nothing but space and comments
    TOO_LARGE = "SPEC005"  #: a file, or the whole, beyond the limit
    ENCODING = "SPEC006"  #: not UTF-8, or no valid Unicode
    CHARACTER = "SPEC007"  #: a character that YAML text may not hold
    SYNTAX = "SPEC008"  #: YAML can't be read
    DOCUMENTS = "SPEC009"  #: more than one document
    SHAPE = "SPEC010"  #: mapping, list or scalar in the wrong place
    DUPLICATE = "SPEC011"  #: defined twice
    MERGE = "SPEC012"  #: a merge key that can't be merged
    ALIAS = "SPEC013"  #: unknown or recursive alias
    EXPANSION = "SPEC014"  #: aliases expand too far
    DEPTH = "SPEC015"  #: nested too deeply
    TAG = "SPEC016"  #: tag or directive not allowed
    KEY = "SPEC017"  #: a key that is no text
    TYPE = "SPEC018"  #: a value of the wrong type
    RANGE = "SPEC019"  #: a value out of range, or not one of those allowed
    UNKNOWN_KEY = "SPEC020"  #: unknown or misspelt key
    MISSING = "SPEC021"  #: a required key is missing, or its value empty
    CONFLICT = "SPEC022"  #: two values that can't both hold
    NAME = "SPEC023"  #: a bad name
    REFERENCE = "SPEC024"  #: a name that nothing defines
    CYCLE = "SPEC025"  #: apps that wait for one another
    UNSUPPORTED = "SPEC026"  #: this version of falplan does not have it
    VERSION = "SPEC027"  #: spec version missing or newer than this falplan
    TEMPLATE = "SPEC028"  #: a template that can't be read
    UNDEFINED = "SPEC029"  #: a template names what is not in scope
    FORBIDDEN = "SPEC030"  #: a template asks for what the sandbox refuses
    EXHAUSTED = "SPEC031"  #: a template took too much time or memory
    VARIABLE = "SPEC032"  #: a variable without a value, or with a bad one
    PATH = "SPEC033"  #: a path that leaves the folder
    FILE = "SPEC034"  #: a file of an app that can't be sent
    NO_MATCH = "SPEC035"  #: a glob that matches nothing
    BUNDLE_LIMIT = "SPEC036"  #: more files or bytes than an app may carry
    APP_SOURCE = "SPEC037"  #: the app's Python can't be read
    CLASS_VALUE = "SPEC038"  #: a class attribute that can't be read without running it
    CLASS_ATTRIBUTE = "SPEC039"  #: a class attribute that is misspelt, or that this version does not have
    REQUIREMENT = "SPEC040"  #: a requirement that pip would not read
    LITERAL_SECRET = "SPEC041"  # noqa: S105 - a code; stands for a literal secret in clear
    SHELL_SYNTAX = "SPEC042"  #: a command with what only a shell would understand
