//! Processes that plugins start, in all languages and ways: what they inherit, who
//! learns how they end, and which of them end with the worker.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use support::plugins::has;
use support::process::{self, Signal, signals};
use support::{EXIT_PROMISE, Nginx, PATIENCE, eventually};

/// `the(language)`: a runtime that starts processes.
const LANGUAGES: &str = "
local options = {
    c = { runtime = 'c', library = 'children' },
    lua = { runtime = 'lua', module = 'children' },
    python = { runtime = 'python', entry = 'children:call', path = 'lib/python' },
    go = { runtime = 'go', library = 'go_verbs', entry = 'do' },
    java = { runtime = 'java', entry = 'faults.Children#call', class_path = 'lib/java' },
}
function the(language)
    local given = options[language]
    given.name = language
    return assert(nbffi.load(given))
end
";

/// The same in a Lua VM.
const VM: &str = r#"
local _M = {}

-- As the others, with `io.popen`; the pipe stays open, and the program goes on.
local kept = {}
function _M.start(what)
    local pipe = assert(io.popen("echo $$; " .. what))
    kept[#kept + 1] = pipe
    return (pipe:read("*l"))
end

function _M.execute(what)
    local path = os.tmpname()
    os.execute("(" .. what .. ") >/dev/null & echo $! > " .. path)
    local file = io.open(path)
    local id = file:read("*l")
    file:close()
    os.remove(path)
    return id
end

local function code_of(ok, _, code)
    -- As Lua 5.1 has it, or 5.2.
    return type(ok) == "number" and ok / 256 or code
end

function _M.run(what)
    return tostring(code_of(os.execute(what)))
end

function _M.close(what)
    local pipe = io.popen(what)
    pipe:read("*a")
    return tostring((pipe:close()))
end

function _M.wait(what)
    local pipe = io.popen(what .. " & wait; echo done")
    return pipe:read("*l")
end

-- Of a child that must see the end of its input.
function _M.write(what)
    local pipe = io.popen(what, "w")
    pipe:write("text")
    return tostring((pipe:close()))
end

return _M
"#;

/// The ways to start a program that goes on, by language.
const STARTS: [(&str, &str); 10] = [
    ("c", "fork"),
    ("c", "vfork"),
    ("c", "spawn"),
    ("c", "clone"),
    ("lua", "start"),
    ("lua", "execute"),
    ("python", "start"),
    ("python", "bare"),
    ("go", "start"),
    ("java", "start"),
];

/// The ways to fork a child that is not another program.
const FORKS: [(&str, &str, &str); 2] = [("c", "stay", ""), ("python", "stay", "3600")];

/// An nginx whose `/ask?<language>&<request>` calls the language's plugin.
fn start(more: &str) -> Nginx {
    let builder = Nginx::builder()
        .plugin("children")
        .language("python")
        .language("go")
        .language("java")
        .init(LANGUAGES)
        .init(more)
        .location(
            "/ask",
            "local language, request = ngx.unescape_uri(ngx.var.args):match('^(%w+)&(.*)$')
             local rt = the(language)
             if language == 'lua' then
                 return ngx.print(rt:call(request:match('^(%w+) ?(.*)$')))
             end
             ngx.print(rt:call(request))",
        )
        .location("/text", "ngx.print('text')")
        .location("/seize", "ngx.print(seize())");
    let nginx = builder.start();
    fs::write(nginx.dir().join("prefix/lua/children.lua"), VM).unwrap();
    nginx
}

fn path(language: &str, request: &str) -> String {
    let request = request.replace('%', "%25").replace(' ', "%20");
    let request = request.replace('&', "%26").replace(';', "%3B");
    format!("/ask?{language}&{request}")
}

fn ask(nginx: &Nginx, language: &str, request: &str) -> String {
    nginx.text(&path(language, request))
}

/// The children that a test has made, which end with it.
struct Children(Vec<i32>);

impl Children {
    fn add(&mut self, what: &str, id: &str) -> i32 {
        let id = id.trim().parse().unwrap_or_else(|_| panic!("{what}: {id}"));
        assert!(process::is_alive(id), "{what}: {id}");
        self.0.push(id);
        id
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.0
            .iter()
            .for_each(|&id| process::signal(id, Signal::Kill));
    }
}

/// A request of HTTP/1.0, whose answer ends with the connection.
fn connect(nginx: &Nginx) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", nginx.port())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn finish(mut stream: TcpStream, path: &str) -> String {
    let head = format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the end of the answer");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// What a process has open, but for the standard three.
fn open(id: i32) -> BTreeSet<String> {
    let entries = fs::read_dir(format!("/proc/{id}/fd")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let others = paths.filter(|path| {
        let number: i32 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        number > 2
    });
    others
        .filter_map(|path| Some(fs::read_link(path).ok()?.to_string_lossy().into_owned()))
        .collect()
}

/// What a program has open of nginx's. (The JVM has a file of its own open in them.)
fn nginxs(id: i32, nginx: &Nginx) -> Vec<String> {
    let folder = nginx.dir().display().to_string();
    let kinds = ["socket:", "anon_inode:", "pipe:", "/memfd:", &folder];
    let is_one = |file: &String| kinds.iter().any(|kind| file.starts_with(kind));
    open(id).into_iter().filter(is_one).collect()
}

/// Clients see the end of their connections, and the port is free after a stop,
/// while children live: of connections that were there before, came meanwhile, and
/// came later.
#[test]
fn children_have_nothing_of_nginxs() {
    let mut nginx = start("");
    let mut children = Children(Vec::new());
    // Loaded before, so that all connections below are made after that.
    for language in ["c", "lua", "python", "go", "java"] {
        if has(language) {
            ask(&nginx, language, "run true");
        }
    }
    // In a session of its own, so that the worker does not end it.
    let sleep = "exec setsid sleep 3600";
    for (language, way) in STARTS.into_iter().filter(|(language, _)| has(language)) {
        let what = format!("{language}, {way}");
        let before = connect(&nginx);
        let id = finish(connect(&nginx), &path(language, &format!("{way} {sleep}")));
        let id = children.add(&what, &id);
        assert_eq!(finish(before, "/text"), "text", "{what}");
        assert_eq!(finish(connect(&nginx), "/text"), "text", "{what}");
        eventually("the process is the program", || {
            let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap();
            name == "sleep\n"
        });
        assert_eq!(nginxs(id, &nginx), [""; 0], "{what}");
        assert_eq!(signals(id, "SigBlk"), BTreeSet::new(), "{what}");
        assert!(!signals(id, "SigIgn").contains(&libc::SIGPIPE), "{what}");
    }
    let started = children.0.len();
    for (language, way, argument) in FORKS.into_iter().filter(|(language, ..)| has(language)) {
        let what = format!("{language}, {way}");
        let before = connect(&nginx);
        let id = finish(
            connect(&nginx),
            &path(language, &format!("{way} {argument}")),
        );
        let id = children.add(&what, &id);
        assert_eq!(finish(before, "/text"), "text", "{what}");
        assert_eq!(finish(connect(&nginx), "/text"), "text", "{what}");
        assert_eq!(sockets_of(id, nginx.port()), 0, "{what}");
        let folder = nginx.dir().join("logs").display().to_string();
        assert!(
            !open(id).iter().any(|file| file.starts_with(&folder)),
            "{what}"
        );
        assert_eq!(signals(id, "SigBlk"), BTreeSet::new(), "{what}");
        let control = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];
        for signal in control.into_iter().chain([libc::SIGUSR1, libc::SIGCHLD]) {
            let set = &signals(id, "SigCgt") | &signals(id, "SigIgn");
            assert!(!set.contains(&signal), "{what}: {signal}");
        }
    }
    let port = nginx.port();
    let python = children.0.pop().unwrap();
    nginx.stop(Signal::Term, EXIT_PROMISE);
    let lives = children.0[..started]
        .iter()
        .filter(|&&id| process::is_alive(id))
        .count();
    assert_eq!(lives, started);
    TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    if has("python") {
        eventually("Python's child ends", || !process::is_alive(python));
    }
}

/// The connections of a load, made and closed while children are forked.
#[test]
fn connections_end_while_children_are_forked() {
    let nginx = start("");
    let mut children = Children(Vec::new());
    ask(&nginx, "c", "system true");
    let port = nginx.port();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let nginx = &nginx;
                scope.spawn(move || {
                    for _ in 0..150 {
                        assert_eq!(finish(connect(nginx), "/text"), "text");
                    }
                })
            })
            .collect();
        for way in ["stay", "fork exec sleep 3600", "vfork exec sleep 3600"].repeat(15) {
            children.add(way, &ask(&nginx, "c", way));
        }
        clients
            .into_iter()
            .for_each(|client| client.join().unwrap());
    });
    for &id in &children.0 {
        assert_eq!(sockets_of(id, port), 0, "{}", process::describe(id));
    }
}

/// How many connections and listening sockets of a port a process has.
fn sockets_of(id: i32, port: u16) -> usize {
    let table = fs::read_to_string(format!("/proc/{id}/net/tcp")).unwrap();
    let open = open(id);
    let address = format!(":{port:04X}");
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[1].ends_with(&address))
        .filter(|fields| open.contains(&format!("socket:[{}]", fields[9])))
        .count()
}

/// SIGTERM ends children, and what they have ended with is known.
#[test]
fn signals_end_children() {
    let nginx = start("");
    let sigterm = libc::SIGTERM.to_string();
    assert_eq!(ask(&nginx, "c", "killed"), sigterm);
    assert_eq!(
        ask(&nginx, "c", "system timeout -s TERM 0.1 sleep 3600"),
        "124"
    );
    assert_eq!(ask(&nginx, "lua", "wait sleep 0.1"), "done");
    // A writer ends with its reader.
    let endless = "while :; do echo x; done | head -1 > /dev/null";
    assert_eq!(ask(&nginx, "c", &format!("system {endless}")), "0");
    assert_eq!(ask(&nginx, "lua", &format!("run {endless}")), "0");
    if has("python") {
        assert_eq!(ask(&nginx, "python", "killed 3600"), sigterm);
        assert_eq!(ask(&nginx, "python", "fork_killed 3600"), sigterm);
        assert_eq!(ask(&nginx, "python", "alarm"), "42");
        for method in ["spawn", "forkserver"] {
            let codes = ask(&nginx, "python", &format!("start_by {method}"));
            assert_eq!(codes, "[7, 8, -15]", "{method}");
        }
    }
    if has("go") {
        assert_eq!(ask(&nginx, "go", "killed 3600"), sigterm);
        assert_eq!(
            ask(&nginx, "go", "run timeout -s TERM 0.1 sleep 3600"),
            "124"
        );
        assert_eq!(ask(&nginx, "go", &format!("run {endless}")), "0");
    }
    if has("java") {
        assert_eq!(ask(&nginx, "java", "killed exec sleep 3600"), sigterm);
        assert_eq!(ask(&nginx, "java", &format!("run {endless}")), "0");
    }
}

/// Each language learns how each of its children has ended, and nobody takes it
/// away: all of them at the same time.
#[test]
fn how_children_end_is_known() {
    let nginx = start("");
    // Each list by one client, all at the same time. multiprocessing does not bear
    // two threads that wait: each may take the other's child.
    let mut lists = vec![
        vec![
            ("c", "exit 7", "7"),
            ("c", "system exit 7", "7"),
            ("c", "popen exit 7", "7"),
        ],
        vec![
            ("lua", "run exit 7", "7"),
            ("lua", "close exit 0", "true"),
            ("lua", "write cat > /dev/null", "true"),
        ],
    ];
    if has("python") {
        lists.push(vec![
            ("python", "run exit 7", "7"),
            ("python", "loop exit 7", "7"),
        ]);
        lists.push(vec![
            ("python", "join 7", "7 False"),
            ("python", "pool 6", "55"),
            ("python", "queue 5", "25 0"),
            ("python", "myself 0", "0"),
        ]);
    }
    if has("go") {
        lists.push(vec![("go", "run exit 7", "7"), ("go", "run exit 3", "3")]);
    }
    if has("java") {
        lists.push(vec![("java", "run exit 7", "7")]);
    }
    std::thread::scope(|scope| {
        for list in lists {
            let mut client = nginx.client();
            scope.spawn(move || {
                for _ in 0..30 {
                    for (language, request, answer) in &list {
                        let found = client.get(&path(language, request)).unwrap().text();
                        assert_eq!(found, *answer, "{language}: {request}");
                    }
                }
            });
        }
    });
}

/// Processes of an executor outlive the thread that has forked them, and end with
/// the worker, in whichever way that ends.
#[test]
fn forked_children_of_python_end_with_the_worker_and_not_before() {
    if !has("python") {
        return;
    }
    let mut nginx = start("");
    for round in 0..2 {
        let ids = ask(&nginx, "python", "warm 8");
        let ids: Vec<i32> = ids.split(' ').map(|id| id.parse().unwrap()).collect();
        assert_eq!(ids.len(), 2);
        assert_eq!(ask(&nginx, "python", "use 8"), "140");
        assert!(ids.iter().all(|&id| process::is_alive(id)));
        let worker = nginx.worker();
        let last = if round == 0 {
            Signal::Kill
        } else {
            Signal::Term
        };
        if last == Signal::Kill {
            nginx.allow_kills(1);
        }
        process::signal(worker, last);
        nginx.wait_gone(worker, PATIENCE);
        eventually("the children end", || {
            !ids.iter().any(|&id| process::is_alive(id))
        });
        eventually("another worker", || {
            nginx.workers().len() == 1 && nginx.worker() != worker
        });
    }
}

/// A signal of nginx's does what it does, on whichever thread it arrives.
#[test]
fn signals_of_nginx_reach_it_from_every_thread() {
    let nginx = start("");
    let send = |worker: i32, thread: i32, signal: i32| {
        // SAFETY: plain numbers; a thread of a worker of ours.
        let status = unsafe { libc::syscall(libc::SYS_tgkill, worker, thread, signal) };
        assert_eq!(status, 0);
    };
    for signal in [libc::SIGQUIT, libc::SIGTERM, libc::SIGINT] {
        for language in ["c", "python", "go", "java"] {
            if has(language) {
                ask(&nginx, language, "run true");
            }
        }
        let worker = nginx.worker();
        let mut threads: Vec<_> = process::threads(worker);
        threads.retain(|(id, _)| *id != worker);
        assert!(threads.iter().any(|(_, name)| name.starts_with("nbffi/")));
        eventually("no thread blocks signals, so no child does", || {
            process::blocking(worker).is_empty()
        });
        for (count, (thread, _)) in threads.iter().enumerate() {
            // It ignores this one, and says who has sent it.
            let line = format!("(SIGHUP) received from {}, ignoring", std::process::id());
            let lines = || nginx.log().matches(&line).count();
            let before = lines();
            if count % 4 == 0 {
                send(worker, *thread, libc::SIGHUP);
                eventually("nginx has the signal", || lines() > before);
            }
        }
        send(worker, threads[threads.len() / 2].0, signal);
        nginx.wait_gone(worker, PATIENCE);
        eventually("another worker", || {
            nginx.workers().len() == 1 && nginx.worker() != worker
        });
    }
}

/// A plugin that replaces handlers of nginx's is loaded, and nginx has them again.
#[test]
fn handlers_that_a_plugin_replaces_are_put_back() {
    let nginx = start(
        "function seize()
             assert(nbffi.load {
                 runtime = 'c', library = 'children', name = 'thief', config = 'seize',
             })
             return 'seized'
         end",
    );
    let worker = nginx.worker();
    assert_eq!(nginx.text("/seize"), "seized");
    for signal in [libc::SIGPIPE, libc::SIGTERM] {
        assert!(nginx.worker() == worker);
        // SAFETY: plain numbers; a worker of ours.
        unsafe { libc::kill(worker, signal) };
    }
    nginx.wait_gone(worker, EXIT_PROMISE);
    let line = "[thief] SIGTERM, SIGPIPE are handled by nginx again, not by the plugin";
    eventually("the log says so", || nginx.log().contains(line));
}
