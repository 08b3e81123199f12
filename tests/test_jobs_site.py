"""Settings of a site: what is in force is known, and where it is from; what cannot be meant is told in one line."""

import dataclasses
import json
import re
import tomllib
from pathlib import Path

import pytest
from test_jobs_slurm import ASSOCIATIONS, CONFIG, NODES, PARTITIONS, QUALITIES

from medhpc.cli import main
from medhpc.errors import BadOption
from medhpc.jobs.site import SBATCH_VARIABLES, STEPS, TABLES, Site, load_site, site_path
from medhpc.jobs.site_file import Answers, init_site, site_text
from medhpc.jobs.site_keys import KEYS
from medhpc.jobs.slurm_limits import limits_of, parse_associations, parse_config, parse_qos
from medhpc.jobs.slurm_nodes import parse_partitions

GOLDEN = Path(__file__).parent / "golden" / "site.toml"
ANSWERS = Answers(
    limits=limits_of(parse_config(CONFIG)),
    partitions=tuple(parse_partitions(PARTITIONS, NODES)),
    associations=tuple(parse_associations(ASSOCIATIONS)),
    qualities=tuple(parse_qos(QUALITIES)),
)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    """No file and no variable of the person who tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PATH", "/nowhere")
    for variable in ("MEDHPC_SITE", *SBATCH_VARIABLES.values()):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the file that is in force."""

    def put(text: str) -> Path:
        path = tmp_path / "lab.toml"
        path.write_text(text)
        monkeypatch.setenv("MEDHPC_SITE", str(path))
        return path

    return put


# --- what is in force ----------------------------------------------------------------------------


def test_nothing_is_set_by_itself():
    site, origins = load_site()
    assert site == Site() == site.of("infer")
    assert set(origins.values()) == {"default"}
    assert site_path().name == "site.toml" and not site_path().exists()


def test_every_setting_of_a_file(write):
    path = write(
        'partition = "gpu"\naccount = "lab"\nqos = "short"\nconstraint = "a100&fast"\ngres = "gpu:a100:1"\n'
        'reservation = "r"\nnodelist = "n1"\nexclude = "n[2-3]"\ncpus = 8\nmemory = "16G"\nmodules = ["cuda/12"]\n'
        'venv = "/opt/venv"\napptainer = "/opt/a b.sif"\nnv = true\nbind = ["/data:/data:ro"]\nmedhpc = "medhpc"\n'
        'scratch = "/scratch"\nmail_user = "a@b.c"\nmail_type = "END,FAIL"\ntemplates = "/opt/t"\n'
        'extra = ["--licenses=a@b:1", "--exclusive"]\n'
    )
    site, origins = load_site()
    assert set(origins) == set(KEYS) and set(origins.values()) == {str(path)}
    assert (site.cpus, site.memory, site.modules, site.nv) == (8, 16 << 30, ("cuda/12",), True)
    assert all(getattr(site, key) for key in KEYS)


def test_the_environment_overrides_the_file_as_for_sbatch(write, monkeypatch):
    write('account = "lab"\npartition = "gpu"\n')
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    site, origins = load_site()
    assert (site.account, origins["account"]) == ("mine", "$SBATCH_ACCOUNT")
    assert site.partition == "gpu"


IN_TABLES = """
partition = "cpu"
account = "lab"
exclude = "n1"
[infer]
partition = "gpu"
gres = "gpu:a100:1"
exclude = "g1"
[stitch]
memory = "64G"
"""


def test_a_step_has_settings_of_its_own(write):
    path = write(IN_TABLES)
    site, origins = load_site()
    assert [site.of(step).partition for step in ("plan", "infer", "stitch")] == ["cpu", "gpu", "cpu"]
    assert (site.of("infer").account, site.of("infer").gres, site.of("plan").gres) == ("lab", "gpu:a100:1", "")
    assert (site.of("stitch").memory, site.memory) == (64 << 30, 0)
    assert origins["infer.partition"] == str(path) and origins["gres"] == "default"


def test_variables_and_options_are_for_all_steps(write, monkeypatch):
    write(IN_TABLES)
    monkeypatch.setenv("SBATCH_PARTITION", "day")
    site, origins = load_site()
    assert {site.of(step).partition for step in STEPS} == {"day"}
    assert origins["partition"] == "$SBATCH_PARTITION" and "infer.partition" not in origins
    assert site.with_all(partition="night").of("infer").partition == "night"
    assert site.of("infer").gres == "gpu:a100:1"


def test_nodes_are_left_out_of_every_step(write):
    write(IN_TABLES)
    site = load_site()[0].without_nodes(["n7", "n8"])
    assert [site.of(step).exclude for step in STEPS] == ["n1,n7,n8", "g1,n7,n8", "n1,n7,n8"]


def test_the_users_own_file_is_found(tmp_path):
    assert site_path() == tmp_path / "config" / "medhpc" / "site.toml"
    site_path().parent.mkdir(parents=True)
    site_path().write_text('qos = "long"\n')
    assert load_site()[0].qos == "long"


def test_folders_may_start_at_home(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    write('venv = "~/venv"\n')
    assert load_site()[0].venv == "/home/me/venv"


def test_what_every_job_gets():
    site = Site(partition="gpu", mail_user="a@b.c", cpus=8, gres="gpu:1", extra=("--exclusive", "--licenses=a=b"))
    assert site.directives == {"partition": "gpu", "mail-user": "a@b.c", "exclusive": "", "licenses": "a=b"}


def test_settings_and_their_meaning_are_listed_alike():
    assert [*KEYS, "steps"] == [field.name for field in dataclasses.fields(Site)]


# --- what cannot be meant ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, told",
    [
        ('partiton = "gpu"', "there is no setting 'partiton'; did you mean 'partition'"),
        ('mail-user = "a@b.c"', "did you mean 'mail_user'"),
        ("xyz = 1", "there is no setting 'xyz'; valid are partition, account, qos, .*, extra"),
        ("partition = 5", 'partition is 5; expected a partition, or several as "a,b"'),
        ('partition = "a b"', "partition is 'a b'; expected a partition"),
        ('account = "a\\nb"', "account is 'a\\\\nb'; expected"),
        ("cpus = true", "cpus is True; expected a number of CPUs"),
        ("cpus = -1", "cpus is -1; expected"),
        ('memory = "much"', "memory is 'much'; expected memory for a task, such as \"16G\""),
        ('modules = "cuda"', "modules is 'cuda'; expected a list of modules"),
        ("modules = [1]", r"modules is \[1\]; expected"),
        ('venv = "here"', "venv is 'here'; expected the folder"),
        ('mail_type = "sometimes"', "mail_type is 'sometimes'; expected occasions"),
        ('extra = ["--array=1"]', r"extra is \['--array=1'\]; expected a list of other options"),
        ('extra = ["--partition=x"]', "none that is a setting here"),
        ('extra = ["-x"]', "extra is"),
        ("partition = ", "is not TOML: .*; a line looks like"),
        ('[slurm]\npartition = "gpu"', "there is no setting 'slurm'"),
        ('[infr]\npartition = "gpu"', "did you mean 'infer'"),
        ('infer = "gpu"', "infer is 'gpu'; expected a table such as"),
        ('[infer]\ncpus = "many"', r", \[infer\]: cpus is 'many'; expected a number"),
        ("[infer]\n[infer.stitch]\ncpus = 1", r", \[infer\]: there is no setting 'stitch'"),
    ],
)
def test_one_line_tells_file_key_and_what_is_expected(write, line, told):
    path = write(line + "\n")
    with pytest.raises(BadOption, match=told) as caught:
        load_site()
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_variable_that_cannot_be_meant(monkeypatch):
    monkeypatch.setenv("SBATCH_QOS", "a b")
    with pytest.raises(BadOption, match=r"^\$SBATCH_QOS: qos is 'a b'; expected"):
        load_site()


def test_options_are_checked_as_files_are():
    with pytest.raises(BadOption, match="^partition is 'a b'; expected"):
        dataclasses.replace(Site(), partition="a b")


def test_a_file_that_is_named_must_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDHPC_SITE", str(tmp_path / "none.toml"))
    with pytest.raises(BadOption, match="which is not there; write it with 'medhpc site init'"):
        load_site()


# --- writing one ---------------------------------------------------------------------------------


def test_the_text_of_a_new_file_is_golden(request):
    if request.config.getoption("--golden"):
        GOLDEN.write_text(site_text(ANSWERS))
    assert site_text(ANSWERS) == GOLDEN.read_text()


@pytest.mark.parametrize("answers", [ANSWERS, None])
def test_a_new_file_sets_nothing_and_each_of_its_lines_can_be_put_in_force(answers, write):
    text = site_text(answers)
    assert tomllib.loads(text) == {}
    in_force = re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE)
    assert list(tomllib.loads(in_force)) == [*KEYS, *TABLES]
    write(in_force)
    assert set(load_site()[1].values()) == {str(site_path())}


def test_a_file_is_not_replaced_unasked(tmp_path):
    path = tmp_path / "new" / "site.toml"
    assert init_site(path)[0] == path
    path.write_text("cpus = 1\n")
    with pytest.raises(BadOption, match="is there already; edit it, or give --force"):
        init_site(path)
    assert path.read_text() == "cpus = 1\n"
    init_site(path, force=True)
    assert path.read_text() == site_text(None)


# --- the commands --------------------------------------------------------------------------------


@pytest.fixture
def run(capsys):
    """Run a command to its good end; what it printed."""

    def end(*arguments: str) -> tuple[str, str]:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        return tuple(capsys.readouterr())

    return end


def test_site_init_says_where_to_and_what_it_could_not_ask(run):
    out, err = run("site", "init")
    assert f"{site_path()} is written" in out and "is not on PATH" in err
    assert run("site", "show")[0].startswith("nothing is set")


def test_a_file_for_a_group_says_how_it_counts(run, tmp_path, monkeypatch):
    path = tmp_path / "a lab.toml"
    out, _ = run("site", "init", "--to", str(path))
    assert f"export MEDHPC_SITE='{path}'" in out and f"no file: {site_path()} is not there" in out
    monkeypatch.setenv("MEDHPC_SITE", str(path))
    assert "export" not in run("site", "init", "--to", str(path), "--force")[0]
    assert f"file: {path} (named by MEDHPC_SITE)" in run("site", "show")[0]


def test_site_show_names_the_file_that_is_not_there(run):
    assert f"no file: {site_path()} is not there (MEDHPC_SITE names no other)" in run("site", "show")[0]
    assert json.loads(run("site", "show", "--json")[0])["found"] is False


def test_site_show_prints_what_is_in_force_and_where_from(run, write):
    path = write('memory = "16G"\nmodules = ["a", "b"]\n')
    shown, _ = run("site", "show")
    assert re.search(rf"memory +16 GiB +{path}", shown) and re.search(rf"modules +a, b +{path}", shown)
    found = json.loads(run("site", "show", "--json")[0])
    assert found["file"] == str(path)
    assert found["settings"]["memory"] == {"value": 16 << 30, "from": str(path)}
    assert found["settings"]["qos"] == {"value": "", "from": "default"}


def test_site_show_prints_the_settings_of_a_step(run, write):
    path = write(IN_TABLES)
    shown, _ = run("site", "show")
    assert re.search(rf"infer\.partition +gpu +{path}", shown) and re.search(rf"stitch\.memory +64 GiB +{path}", shown)
