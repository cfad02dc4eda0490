"""A valid spec becomes apps whose every setting says where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from falplan.core.errors import SpecInvalid
from falplan.core.spec.fields import APP_FIELDS
from falplan.core.spec.resolved import AppKind, Origin
from falplan.stores.spec import load_spec
from tests.stores.spec.project import APP, COMMAND, HEAD, apps_of, findings, load, value_of, write

FAL = HEAD + "apps:\n  a:\n    app: app.py::App\n"


def test_an_app_has_every_setting(tmp_path: Path) -> None:
    (app,) = load(tmp_path, HEAD + COMMAND).apps

    assert set(app.settings) == set(APP_FIELDS)
    assert {s.origin for s in app.settings.values()} == {Origin.DEFAULT}
    assert (app.kind, app.command, app.entry, app.address) == (AppKind.COMMAND, ("serve",), "", "app.main.web")


def test_a_spec_without_regions_has_this_machine(tmp_path: Path) -> None:
    spec = load(tmp_path, HEAD)

    assert {name: r.provider for name, r in spec.regions.items()} == {"local": "local"}
    assert (spec.owner, spec.environments, spec.apps) == ("demo", ("main",), ())


def test_a_region_that_is_wrong_is_not_unknown_too(tmp_path: Path) -> None:
    text = HEAD + "regions: {dc1: {provider: ssh, install: puhs}}\n" + COMMAND + "    regions: [dc1]\n"
    found = findings(tmp_path, text)

    assert [f.message for f in found] == ['"puhs" is not allowed']


@pytest.mark.parametrize(
    ("region", "host", "place"),
    [
        ("reach: direct", "jump: bastion", "5:19"),
        ("jump: bastion", "reach: direct", "5:20"),
        ("jump: bastion, reach: direct", "", "5:7"),
        ("jump: bastion, reach: ssh", "reach: direct, direct_ports: 20000-29999", "5:20"),
        ("jump: bastion, reach: direct", "direct_address: 10.0.0.1", ""),
        ("jump: bastion, reach: direct", "reach: ssh", ""),
        ("reach: direct", "", ""),
    ],
)
def test_a_host_behind_another_says_where_its_ports_are_reached(
    tmp_path: Path, region: str, host: str, place: str
) -> None:
    text = HEAD + f"regions:\n  dc1: {{provider: ssh, {region}, hosts: {{\n      one: {{{host}}}}}}}\n"
    found = findings(tmp_path, text) if place else []
    if not place:
        load(tmp_path, text)

    assert [f"{f.position.line}:{f.position.column}" for f in found if f.position] == [place] * bool(place)
    assert all(
        f.message == 'host "one" is reached through bastion, and its runners are to be reached directly' for f in found
    )


@pytest.mark.parametrize("ports", ["80", "30000-20000", "20000-70000", "a-b", "20000-", "-1"])
def test_a_range_of_ports_is_one(tmp_path: Path, ports: str) -> None:
    text = HEAD + f"regions: {{dc1: {{provider: ssh, direct_ports: {ports}}}}}\n"

    assert [f.message for f in findings(tmp_path, text)] == ["not a range of ports from 1024 to 65535"]


def test_the_environment_wins_over_the_spec_over_the_class_over_the_platform(tmp_path: Path) -> None:
    source = APP.replace("pass", "keep_alive = 1\n    scaling_delay = 1\n    min_concurrency = 1")
    text = FAL + "    keep_alive: 2\n    scaling_delay: 2\nenvironments:\n  staging: {apps: {a: {keep_alive: 3}}}\n"

    app = apps_of(load(tmp_path, text, {"app.py": source}))["app.staging.a"]

    found = {
        n: (app.settings[n].value, app.settings[n].origin, str(app.settings[n].position))
        for n in ("keep_alive", "scaling_delay")
    }
    assert found["keep_alive"] == (3, Origin.OVERLAY, "falplan.yaml:9:36")
    assert found["scaling_delay"] == (2, Origin.SPEC, "falplan.yaml:7:20")
    assert app.settings["min_concurrency"].origin is Origin.CLASS
    assert str(app.settings["min_concurrency"].position) == "app.py:7:5"
    assert app.settings["max_concurrency"].origin is Origin.DEFAULT


def test_a_class_has_its_own_defaults(tmp_path: Path) -> None:
    (app,) = load(tmp_path, FAL, {"app.py": APP}).apps

    assert value_of(app, "machine_type") == ["S"]
    assert value_of(app, "keep_alive") == 60


def test_an_environment_has_only_what_it_lists(tmp_path: Path) -> None:
    text = (
        HEAD
        + "apps: {a: {command: x}, b: {command: x}}\nenvironments: {one: {apps: {b: }}, all: {apps: all}, none: {}}\n"
    )

    spec = load(tmp_path, text)

    assert [a.address for a in spec.apps] == ["app.main.a", "app.main.b", "app.one.b", "app.all.a", "app.all.b"]
    assert spec.environments == ("main", "one", "all", "none")


def test_overlays_merge_mappings_and_replace_lists(tmp_path: Path) -> None:
    text = HEAD + (
        "apps:\n  a:\n    command: x\n    machine_type: [S, M]\n    environment_variables: {A: one, B: two}\n"
        "environments:\n  staging: {apps: {a: {machine_type: [L], environment_variables: {B: three}}}}\n"
    )

    app = apps_of(load(tmp_path, text))["app.staging.a"]

    assert value_of(app, "environment_variables") == {"A": "one", "B": "three"}
    assert value_of(app, "machine_type") == ["L"]


def test_for_each_repeats_an_app_and_overlays_reach_one_or_all(tmp_path: Path) -> None:
    text = HEAD + (
        'apps:\n  "w-{{ each.key }}":\n    for_each: {a: 1, b: 2}\n    command: serve {{ each.key }}\n'
        '    max_concurrency: "{{ each.value }}"\n'
        'environments:\n  staging:\n    apps: {"w-{{ each.key }}": {keep_alive: 5}, w-b: {keep_alive: 6}}\n'
    )

    apps = apps_of(load(tmp_path, text))

    assert list(apps) == ["app.main.w-a", "app.main.w-b", "app.staging.w-a", "app.staging.w-b"]
    assert apps["app.main.w-b"].command == ("serve", "b")
    assert [value_of(a, "max_concurrency") for a in apps.values()] == [1, 2, 1, 2]
    assert [value_of(a, "keep_alive") for a in apps.values()] == [10, 10, 5, 6]


def test_a_variable_is_given_then_read_from_a_file_then_the_environment_then_its_default(tmp_path: Path) -> None:
    text = HEAD + "variables: {a: {env: A, default: d}}\n" + COMMAND + '    environment_variables: {V: "{{ var.a }}"}\n'
    file = write(tmp_path, {"vars.yaml": "a: f\n"}) / "vars.yaml"

    def value(**more: Any) -> object:
        return value_of(load(tmp_path, text, **more).apps[0], "environment_variables")["V"]

    assert value() == "d"
    assert value(environ={"A": "e"}) == "e"
    assert value(environ={"A": "e"}, variable_files=[file]) == "f"
    assert value(environ={"A": "e"}, variable_files=[file], variables={"a": "g"}) == "g"


@pytest.mark.parametrize(
    ("type_", "given", "value"),
    [("int", "4", 4), ("float", "0.5", "0.5"), ("bool", "true", "true"), ("str", "007", "007")],
)
def test_a_variable_has_a_type(type_: str, given: str, value: object, tmp_path: Path) -> None:
    text = HEAD + f"variables: {{a: {{type: {type_}}}}}\n" + COMMAND + '    environment_variables: {V: "{{ var.a }}"}\n'

    (app,) = load(tmp_path, text, variables={"a": given}).apps

    assert value_of(app, "environment_variables") == {"V": str(value)}


@pytest.mark.parametrize(("type_", "given"), [("int", "x"), ("float", ".nan"), ("bool", "yes")])
def test_a_value_of_another_type_is_refused(type_: str, given: str, tmp_path: Path) -> None:
    (found,) = findings(tmp_path, HEAD + f"variables: {{a: {{type: {type_}}}}}\n", variables={"a": given})

    assert found.code == "SPEC032"


def test_an_unknown_variable_is_met_with_the_nearest(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, HEAD + "variables: {tag: {default: x}}\n", variables={"tga": "1"})

    assert (found.file, found.hint) == ("--var", 'did you mean "tag"?')


def test_a_folder_of_files_is_one_spec(tmp_path: Path) -> None:
    files = {
        "10.yaml": HEAD + COMMAND,
        "20.yml": "version: 1\napps:\n  b: {command: x}\nregions: {here: {provider: local}}\n",
    }

    spec = load_spec(tmp_path, write(tmp_path, files))

    assert [a.name for a in spec.apps] == ["web", "b"]
    assert spec.sources == ("10.yaml", "20.yml")
    assert str(spec.apps[1].position) == "20.yml:3:3"


def test_paths_start_at_the_specs_folder(tmp_path: Path) -> None:
    write(tmp_path, {"sub/spec.yaml": FAL, "sub/app.py": APP})

    spec = load_spec(tmp_path, tmp_path / "sub/spec.yaml")

    assert spec.folder == str((tmp_path / "sub").resolve())
    assert spec.sources == ("spec.yaml",)
    assert spec.apps[0].bundle.root == spec.folder


def test_machine_types_add_to_the_built_in_ones(tmp_path: Path) -> None:
    types = load(
        tmp_path, HEAD + "machine_types: {S: {ram: 2GB}, mine: {vcpu: 2, ram: 1GiB, gpu: A100}}\n"
    ).machine_types

    assert (types["S"].vcpu, types["S"].ram) == (1, 2_000_000_000)
    assert (types["mine"].gpus, types["mine"].ram) == (1, 2**30)
    assert types["GPU-H100"].vram == 80_000_000_000


def test_a_region_of_another_provider_keeps_its_options(tmp_path: Path) -> None:
    text = HEAD + "regions: {r: {provider: fake, machines: 3, labels: [a, 1.5], on: true}}\n"

    region = load(tmp_path, text, providers=("local", "fake")).regions["r"]

    assert region.options == {"machines": 3, "labels": ["a", 1.5], "on": True}


def test_the_capacity_of_a_local_region_is_read(tmp_path: Path) -> None:
    text = (
        HEAD + "regions: {r: {provider: local, capacity: {vcpu: 2, ram: 80GB}, reserve: {ram: 1GiB}, strict: true}}\n"
    )

    assert load(tmp_path, text).regions["r"].options == {
        "capacity": {"vcpu": 2, "ram": 80_000_000_000},
        "reserve": {"ram": 2**30},
        "strict": True,
    }


def test_gpus_of_this_machine_are_detected_and_not_told(tmp_path: Path) -> None:
    """Seen red with a spec that was valid until the provider read it."""
    (found,) = findings(tmp_path, HEAD + "regions: {r: {provider: local, capacity: {gpus: 2}}}\n")

    assert (str(found.position), found.message) == ("falplan.yaml:3:43", 'unknown key "gpus" under capacity')


def test_requirements_come_from_a_list_or_from_files(tmp_path: Path) -> None:
    text = HEAD + "apps:\n  a: {command: x, requirements: [torch]}\n  b: {command: x, requirements: r/all.txt}\n"
    files = {
        "r/all.txt": "# all\nnumpy>=2 # fast\n-r more.txt\n--index-url https://example.com/simple\n",
        "r/more.txt": "pillow\\\n  ==11\n",
    }

    first, second = load(tmp_path, text, files).apps

    assert value_of(first, "requirements") == ["torch"]
    assert value_of(second, "requirements") == ["numpy>=2", "pillow  ==11", "--index-url https://example.com/simple"]


def test_a_bad_line_of_a_requirements_file_has_its_place(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, HEAD + COMMAND + "    requirements: r.txt\n", {"r.txt": "a\nb==\n"})

    assert (found.code, str(found.position)) == ("SPEC040", "r.txt:2:1")


def test_findings_are_sorted_and_each_counts_once(tmp_path: Path) -> None:
    text = (
        HEAD
        + "apps:\n  a: {command: x, auth: no-such}\n  b: {command: x, keep_alive: -1}\nenvironments: {e: {apps: all}, f: {apps: all}}\n"
    )

    assert [str(d.position) for d in findings(tmp_path, text)] == ["falplan.yaml:4:25", "falplan.yaml:5:31"]


def test_what_is_wrong_at_the_top_does_not_hide_what_is_wrong_in_apps(tmp_path: Path) -> None:
    codes = {d.code for d in findings(tmp_path, HEAD + "onwer: x\n" + COMMAND + "    auth: privat\n")}

    assert codes == {"SPEC019", "SPEC020"}


def test_merge_keys_share_settings(tmp_path: Path) -> None:
    text = HEAD + "apps:\n  a: &base\n    command: x\n    keep_alive: 5\n  b:\n    <<: *base\n    command: y\n"

    first, second = load(tmp_path, text).apps

    assert (first.command, second.command) == (("x",), ("y",))
    assert value_of(second, "keep_alive") == 5


def test_null_takes_back_what_a_class_says_where_null_means_something(tmp_path: Path) -> None:
    source = APP.replace("pass", "request_start_timeout = 5")

    (app,) = load(tmp_path, FAL + "    request_start_timeout: null\n", {"app.py": source}).apps

    assert (value_of(app, "request_start_timeout"), app.settings["request_start_timeout"].origin) == (None, Origin.SPEC)


def test_an_environment_cannot_change_what_an_app_is(tmp_path: Path) -> None:
    text = HEAD + COMMAND + "environments: {e: {apps: {web: {command: other}}}}\n"

    assert findings(tmp_path, text)[0].code == "SPEC022"


def test_loading_twice_gives_the_same(tmp_path: Path) -> None:
    spec = load(tmp_path, FAL, {"app.py": APP})

    assert load_spec(tmp_path) == spec


def test_two_default_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"falplan.yaml": HEAD, "falplan.yml": HEAD})

    with pytest.raises(SpecInvalid):
        load_spec(tmp_path)


@pytest.mark.parametrize(
    "pair",
    [
        "DB_PASSWORD: hunter2",
        "A: AKIAABCDEFGHIJKLMNOP",
        "K: '-----BEGIN RSA PRIVATE KEY-----'",
        "URL: 'postgres://u:hunter2@h/db'",
    ],
)
def test_a_literal_secret_is_named_without_its_value(pair: str, tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid) as refused:
        load(tmp_path, HEAD + COMMAND + f"    environment_variables: {{LOG_LEVEL: info, {pair}}}\n")
    (finding,) = refused.value.diagnostics

    name, _, value = pair.partition(": ")
    assert (finding.code, str(finding.position)) == ("SPEC041", "falplan.yaml:6:46")
    assert f'"{name}"' in finding.message
    assert value not in finding.message + finding.hint + finding.source


def test_main_may_have_settings_of_its_own(tmp_path: Path) -> None:
    text = HEAD + "apps: {a: {command: x}, b: {command: x}}\nenvironments: {main: {apps: {a: {keep_alive: 3}}}}\n"

    assert [value_of(a, "keep_alive") for a in load(tmp_path, text).apps] == [3, 10]


def test_the_spec_knows_where_its_entries_are(tmp_path: Path) -> None:
    spec = load(tmp_path, HEAD + "regions:\n  here: {provider: local}\n")

    assert str(spec.positions["regions.here"]) == "falplan.yaml:4:3"
    assert str(spec.positions["project"]) == "falplan.yaml:2:1"


def test_a_for_each_has_its_limit(tmp_path: Path) -> None:
    keys = ", ".join(f"k{n}" for n in range(5001))

    (found,) = findings(tmp_path, HEAD + f"apps: {{'a-{{{{ each.key }}}}': {{command: x, for_each: [{keys}]}}}}\n")

    assert (found.code, found.message) == ("SPEC019", "5,001 apps of one for_each")


@pytest.mark.parametrize(
    ("command", "syntax"),
    [
        ("serve --port $PORT", "$PORT"),
        ("serve --port ${PORT}", "${PORT}"),
        ("build && serve", "&&"),
        ("serve > log", ">"),
        ("sh -c 'exec serve $PORT'", ""),
        ("/bin/bash -c 'exec serve $PORT'", ""),
        ("env A=b sh -c 'serve $PORT && true'", ""),
        ("python -c 'print(1); print(2 > 1)'", ""),
        ("perl -e '$x = 1; print $x'", ""),
    ],
)
def test_what_only_a_shell_understands_is_warned_of(tmp_path: Path, command: str, syntax: str) -> None:
    """Nothing replaced $PORT, and the first to say so was the program that got it."""
    spec = load(tmp_path, HEAD + f"apps:\n  a: {{command: {json.dumps(command)}, files: [a.py]}}\n", {"a.py": ""})
    said = [(str(d.position), d.message) for d in spec.warnings]

    assert said == (
        [("falplan.yaml:4:16", f'"{syntax}" means nothing here: no shell runs the command')] if syntax else []
    )
