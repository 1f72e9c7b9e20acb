#!/usr/bin/env python3
"""What DESIGN.md section 3 says of the tree, checked: who may include whom, who may call the system
and allocate, and how long things may be. Prints what breaks a rule, then 'N passed, N failed', one
for each rule."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SRC = ROOT / "src"

# Folder: the folders of src/ that it may include besides its own. tbl/ is open to all.
MAY_INCLUDE = {
    "base": set(),
    "sys": {"base"},
    "loop": {"base", "sys"},
    "net": {"base", "sys", "loop"},
    "http": {"base", "sys", "loop", "net"},
    "ws": {"base", "sys", "loop", "net"},
    "hub": {"base", "sys", "loop", "net"},
    "guest": {"base", "sys"},
    "compile": {"base", "sys"},
    "app": {"base", "sys", "loop", "net", "http", "ws", "hub", "guest"},
    "tbl": set(),
}
ENGINE_HEADER = re.compile(r"weir_engine\.h|wasm\w*\.h|wasm(time|edge)?/.*|wasi\.h")
ENGINE_FOLDERS = {"guest", "compile"}
OPENSSL_FILES = re.compile(r"net/tls_\w+\.[ch]|\w+/jwt\.c")

# Called only in src/sys/. stdio on streams that are already open is free.
SYSTEM_CALLS = """
    accept accept4 access bind chdir chmod chown clock_gettime clock_nanosleep close connect creat
    dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd execl execlp
    execv execve execvp fchmod fcntl fdopen fopen fork freopen fstat fsync ftruncate getaddrinfo
    getentropy getpeername getrandom getrlimit getsockname getsockopt gettimeofday ioctl kill
    listen lseek lstat memfd_create mkdir mkdtemp mkstemp mmap mprotect munmap nanosleep open openat
    opendir pipe pipe2 poll popen posix_spawn posix_spawnp ppoll prctl pread pselect pwrite read
    readdir readlink readv realpath recv recvfrom recvmmsg recvmsg rename rmdir select send sendfile
    sendmmsg sendmsg sendto setitimer setrlimit setsockopt setuid shutdown sigaction signal signalfd
    sigprocmask sleep socket socketpair splice stat statx syscall system time timer_create
    timer_settime timerfd_create timerfd_settime unlink usleep vfork wait waitpid write writev
""".split()

ALLOCATORS = ["malloc", "calloc", "realloc", "reallocarray", "free", "strdup", "strndup",
              "asprintf", "vasprintf", "posix_memalign", "aligned_alloc"]
# File: why it allocates beside base/buf.c and base/pool.c, which count for everybody.
MAY_ALLOCATE = {
    "base/mem.c": "is the allocator of plain memory",
    "base/buf.c": "is the allocator of buffers",
    "base/pool.c": "is the allocator of pools",
    "app/config.c": "the configuration's texts: once, bounded by the size of the file",
    "app/config_reader.c": "likewise, and lists",
    "app/config_access.c": "likewise",
}

COLUMNS, FILE_LINES, FUNCTION_LINES = 100, 700, 70
C_FOLDERS = ("src", "tests", "sdk", "bench")
AS_MEASURED = {"bench/floor.c"}  # kept as it was when its figures were taken, style and all


def code_of(text):
    """The text with comments, strings and characters blanked, its lines kept."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def numbered(path):
    return enumerate(path.read_text(errors="replace").splitlines(), 1)


def sources():
    return sorted(p for p in SRC.glob("*/*") if p.suffix in (".c", ".h", ".def"))


def c_files():
    files = []
    for folder in C_FOLDERS:
        files += [p for p in (ROOT / folder).rglob("*") if p.suffix in (".c", ".h")]
    return sorted(p for p in files if str(p.relative_to(ROOT)) not in AS_MEASURED)


def includes():
    """(file, its folder, line, header, whether in quotes) for each #include of src/."""
    for path in sources():
        for n, line in numbered(path):
            m = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
            if m:
                yield path, path.parent.name, n, m.group(2), m.group(1) == '"'


def calls(names):
    """(file, line, name) for each call of one of the names in src/. Members are not calls of it."""
    pattern = re.compile(r"(?<![\w.])(?<!->)(" + "|".join(names) + r")\s*\(")
    for path in sources():
        if path.suffix == ".def":
            continue
        for n, line in enumerate(code_of(path.read_text()).splitlines(), 1):
            for m in pattern.finditer(line):
                yield path, n, m.group(1)


def where(path, line=None):
    return f"{path.relative_to(ROOT)}" + (f":{line}" if line else "")


def rule_layers():
    for path, folder, n, header, quoted in includes():
        target = header.split("/")[0]
        if folder not in MAY_INCLUDE:
            yield f"{where(path)}: a folder that DESIGN.md does not know"
        elif header.endswith(".inc"):  # made by the build
            continue
        elif quoted and "/" not in header:
            yield f"{where(path, n)}: name its folder: {header}"
        elif quoted and target not in ("tbl", folder) and target not in MAY_INCLUDE[folder]:
            if {folder, target} != {"http", "ws"}:
                yield f"{where(path, n)}: {folder} may not include {header}"


def rule_http_and_ws():
    for path, folder, n, header, quoted in includes():
        if quoted and {folder, header.split("/")[0]} == {"http", "ws"}:
            yield f"{where(path, n)}: http and ws do not know each other: {header}"


def rule_engine():
    for path, folder, n, header, _ in includes():
        if ENGINE_HEADER.fullmatch(header) and folder not in ENGINE_FOLDERS:
            yield f"{where(path, n)}: only guest/ and compile/ include {header}"


def rule_openssl():
    for path, _, n, header, _ in includes():
        if header.startswith("openssl/") and not OPENSSL_FILES.fullmatch(str(path.relative_to(SRC))):
            yield f"{where(path, n)}: only net/tls_* and jwt.c include {header}"


def rule_system_calls():
    for path, n, name in calls(SYSTEM_CALLS):
        if path.parent.name != "sys":
            yield f"{where(path, n)}: {name}() belongs to sys/"


def rule_allocators():
    seen = {}
    for path, n, name in calls(ALLOCATORS):
        seen.setdefault(str(path.relative_to(SRC)), []).append(f"{name}:{n}")
    for name in sorted(set(MAY_ALLOCATE) - set(seen)):
        yield f"src/{name} allocates nothing: take it off the list"
    for name, uses in sorted(seen.items()):
        if name not in MAY_ALLOCATE:
            yield f"src/{name}: allocates: {', '.join(uses)}; use base/buf or base/pool"
        elif name not in ("base/mem.c", "base/buf.c", "base/pool.c"):
            print(f"note: src/{name} allocates {len(uses)} times: {MAY_ALLOCATE[name]}")


def rule_columns():
    for path in c_files():
        for n, line in numbered(path):
            if len(line) > COLUMNS:
                yield f"{where(path, n)}: {len(line)} columns"


def rule_file_lines():
    for path in c_files():
        n = len(path.read_text(errors="replace").splitlines())
        if n > FILE_LINES:
            yield f"{where(path)}: {n} lines"


def rule_function_lines():
    """A function's brace stands in the first column (.clang-format), so do its last one's."""
    for path in c_files():
        lines = path.read_text(errors="replace").splitlines()
        start = None
        for n, line in enumerate(lines, 1):
            if line == "{":
                start = n - 1
                while start > 1 and re.match(r"\s+\S", lines[start - 1]):
                    start -= 1  # a signature of several lines
            elif line == "}" and start:
                if n - start + 1 > FUNCTION_LINES:
                    name = re.search(r"(\w+)\(", lines[start - 1])
                    yield (f"{where(path, start)}: {name.group(1) if name else '?'} has "
                           f"{n - start + 1} lines")
                start = None


RULES = [
    ("includes go one way", rule_layers),
    ("http and ws do not include each other", rule_http_and_ws),
    ("only guest and compile include the engine's headers", rule_engine),
    ("only net/tls_* and jwt.c include OpenSSL's headers", rule_openssl),
    ("only sys calls the system", rule_system_calls),
    ("only buf, pool and the files listed allocate", rule_allocators),
    (f"no line over {COLUMNS} columns", rule_columns),
    (f"no C file over {FILE_LINES} lines", rule_file_lines),
    (f"no function over {FUNCTION_LINES} lines", rule_function_lines),
]


def main():
    failed = 0
    for title, rule in RULES:
        found = list(rule())
        failed += bool(found)
        print(f"{'FAILED' if found else 'ok'}: {title}")
        for line in found:
            print(f"    {line}")
    files = [p for p in sources() if p.suffix == ".c"]
    lines = sum(len(p.read_text().splitlines()) for p in sources() if p.suffix in (".c", ".h"))
    print(f"note: {len(files)} C files in src/ (aim: at most 55), {lines} lines (aim: 12000)")
    print(f"{len(RULES) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
