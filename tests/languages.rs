//! All languages in one worker: C, Rust, Lua, Python, Go and Java, each with
//! threads, signal handlers and ideas of its own about how a process ends.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::builder::Builder;
use support::http::Load;
use support::plugins;
use support::process::{self, Signal};
use support::{EXIT_PROMISE, Nginx, Size, eventually};

const WORKERS: usize = 2;
/// What controls nginx, and what its workers live through.
const CONTROL: [i32; 7] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
];
const OTHERS: [i32; 5] = [
    libc::SIGPIPE,
    libc::SIGCHLD,
    libc::SIGALRM,
    libc::SIGIO,
    libc::SIGSYS,
];

/// Runtimes of all languages, and functions that ask them. They are loaded by the
/// first request, in an order that differs from worker to worker, as language
/// runtimes heed the signal handlers that they find.
const LANGUAGES: &str = "
options = {
    c = { runtime = 'c', library = 'fault' },
    rust = { runtime = 'c', library = 'blocking' },
    lua = { runtime = 'lua', module = 'string' },
    python = { runtime = 'python', entry = 'faults:Faults', path = 'lib/python' },
    go = { runtime = 'go', library = 'go_verbs', entry = 'do' },
    java = { runtime = 'java', entry = 'faults.Faults#call', class_path = 'lib/java' },
}
local orders = {
    { 'c', 'rust', 'lua', 'python', 'go', 'java' },
    { 'java', 'go', 'python', 'lua', 'rust', 'c' },
    { 'go', 'java', 'lua', 'c', 'python', 'rust' },
    { 'python', 'java', 'rust', 'go', 'c', 'lua' },
    { 'java', 'c', 'python', 'rust', 'lua', 'go' },
}
local runtimes

-- The test says what this machine lacks.
function leave_out(language)
    options[language] = nil
end

local function load_all()
    local loaded = {}
    -- Neighbours have different orders, and successors, too.
    local order = orders[ngx.worker.pid() % #orders + 1]
    for _, language in ipairs(order) do
        local given = options[language]
        if given then
            given.name = language
            if language == 'c' then
                given.config = 'counters=' .. harness.counters
            elseif language == 'python' or language == 'java' then
                given.config = harness.counters
            end
            loaded[language] = assert(nbffi.load(given))
        end
    end
    runtimes = loaded
    return loaded
end

-- Once; who comes meanwhile waits for the same runtimes.
local function languages()
    return runtimes or load_all()
end

-- How each is asked, and what it answers; with a time for those that sleep.
local function ask(rt, language, id, ms)
    if language == 'c' then
        return rt:submit('echo ' .. id), 'echo ' .. id
    elseif language == 'rust' then
        return rt:submit('sleep ' .. ms / 1000), ''
    elseif language == 'lua' then
        return rt:submit('rep', 'x', 3), 'xxx'
    elseif language == 'python' then
        return rt:submit('sleep ' .. ms .. ' ' .. id), 'sleep ' .. ms .. ' ' .. id
    elseif language == 'go' then
        return rt:submit('sleep ' .. ms), tostring(ms)
    end
    return rt:submit('sleep ' .. ms .. ' ' .. id), 'sleep ' .. ms .. ' ' .. id
end

-- A call to each of them, at the same time. Returns what was wrong.
function ask_all(id, ms)
    local futures = {}
    for language, rt in pairs(languages()) do
        local future, answer = ask(rt, language, id, ms)
        futures[language] = { future, answer }
    end
    for language, pair in pairs(futures) do
        local res, err = pair[1]:wait()
        if res ~= pair[2] then
            return language .. ': ' .. tostring(res or err)
        end
    end
end

-- One of the runtimes, or nil if it was left out.
function the(language)
    return languages()[language]
end
";

/// The languages that this machine lacks.
fn missing() -> Vec<&'static str> {
    let mut languages = vec!["python", "go", "java"];
    languages.retain(|language| !plugins::has(language));
    languages
}

/// An nginx with `/all?<id>`, which asks all languages at the same time, and
/// `/slow?<id>`, which asks those that can sleep to do so for a while.
fn builder() -> Builder {
    let left_out: String = missing()
        .iter()
        .map(|language| format!("leave_out('{language}')\n"))
        .collect();
    let location = |ms: u32| {
        format!(
            "local wrong = ask_all(ngx.var.args, {ms})
             ngx.print(wrong or ngx.var.args)"
        )
    };
    Nginx::builder()
        .workers(WORKERS)
        .plugin("blocking")
        .init(LANGUAGES)
        .init(&left_out)
        .location("/all", &location(0))
        .location("/slow", &location(300))
        .location(
            "/library_pid",
            "assert(nbffi.load { runtime = 'c', library = 'echo' }) ngx.print(ngx.worker.pid())",
        )
        .location("/all_pid", "ngx.print(ask_all(1, 0) or ngx.worker.pid())")
        .language("python")
        .language("go")
        .language("java")
}

/// Waits until each worker has answered so much that it has all languages.
fn warm(nginx: &Nginx) {
    let mut left = nginx.workers();
    eventually("all workers have all languages", || {
        let answer = nginx.text("/all_pid");
        left.remove(&answer.parse::<i32>().expect("a worker's id"));
        left.is_empty()
    });
}

/// The master writes of a worker's end when it has noticed it.
fn await_exits(nginx: &Nginx, number: usize) {
    eventually("all exits are clean, and in the log", || {
        nginx.clean_exits() == number
    });
}

#[test]
fn a_reload_under_load_loses_no_request() {
    let nginx = builder().start();
    let load = Load::start(&nginx, 8, "/all?", "");
    let reloads = Size::Reloads.or(4);
    load.outlive_reloads(&nginx, reloads, 100);
    await_exits(&nginx, reloads as usize * WORKERS);
}

#[test]
fn quit_answers_what_all_have_begun() {
    let mut nginx = builder().start();
    warm(&nginx);
    // `warm` has used another id.
    let calls: Vec<_> = (11..=16)
        .map(|id| (format!("/slow?{id}"), id.to_string()))
        .collect();
    nginx.quit_while(&calls, |nginx| {
        nginx.counters().runs(16)[10..].iter().all(|&runs| runs > 0)
    });
    nginx.wait_stopped(EXIT_PROMISE);
    assert_eq!(nginx.clean_exits(), WORKERS);
}

/// `nginx -s stop` is SIGTERM for the master.
#[test]
fn stop_under_load_is_clean() {
    for path in ["/all?", "/slow?"] {
        let mut nginx = builder().start();
        warm(&nginx);
        let load = Load::start(&nginx, 8, path, "");
        load.await_more(16);
        nginx.stop(Signal::Term, EXIT_PROMISE);
        load.stop();
        assert_eq!(nginx.clean_exits(), WORKERS);
    }
}

#[test]
fn signals_end_a_worker_as_without_languages() {
    let nginx = builder().start();
    let load = Load::start(&nginx, 8, "/all?", "");
    let mut exits = 0;
    for round in 0..9 {
        load.await_more(50);
        let workers = nginx.workers();
        let worker = *workers.first().unwrap();
        process::signal(
            worker,
            [libc::SIGTERM, libc::SIGQUIT, libc::SIGINT][round % 3],
        );
        nginx.wait_gone(worker, EXIT_PROMISE);
        exits += 1;
        eventually("another worker", || {
            let now = nginx.workers();
            now.len() == WORKERS && !now.contains(&worker)
        });
        await_exits(&nginx, exits);
    }
    load.await_more(50);
    load.stop();
}

#[test]
fn signals_stay_nginxs() {
    let nginx = builder().start();
    let workers = nginx.workers();
    let ours: Vec<i32> = CONTROL.into_iter().chain(OTHERS).collect();
    let dispositions = |worker: i32| {
        ["SigIgn", "SigCgt"].map(|key| {
            let mut set = process::signals(worker, key);
            set.retain(|signal| ours.contains(signal));
            set
        })
    };
    // The library has changed what it does before; languages change nothing.
    let mut entered = BTreeSet::new();
    eventually("all workers have the library", || {
        entered.insert(nginx.text("/library_pid"));
        entered.len() == WORKERS
    });
    let before: Vec<_> = workers.iter().map(|&pid| dispositions(pid)).collect();
    warm(&nginx);
    let after: Vec<_> = workers.iter().map(|&pid| dispositions(pid)).collect();
    assert_eq!(after, before);
    for &worker in &workers {
        eventually("no thread blocks signals, so no child does", || {
            process::blocking(worker).is_empty()
        });
    }
    // What a worker lives through without languages, it does with them, in the
    // middle of work.
    let load = Load::start(&nginx, 8, "/all?", "");
    for _ in 0..20 {
        for &worker in &workers {
            for signal in [libc::SIGPIPE, libc::SIGURG, libc::SIGCHLD, libc::SIGHUP] {
                process::signal(worker, signal);
            }
        }
        load.await_more(40);
    }
    assert_eq!(load.stop().failures, [""; 0]);
    assert_eq!(nginx.workers(), workers);
}

/// Go and Java make errors of faults that their code causes, by handlers of the
/// same signals: each has to pass on what is the other's, in whatever order they
/// were loaded.
#[test]
fn faults_are_those_of_the_language_that_caused_them() {
    if missing().iter().any(|language| *language != "python") {
        return;
    }
    let nginx = builder()
        .location(
            "/faults",
            "for i = 1, 5 do
             local _, go, _, message = the('go'):call('dereference x')
             if go ~= 'runtime error: ' .. tostring(message)
                or not message:find('nil pointer', 1, true) then
                 return ngx.print('go: ', tostring(go))
             end
             local _, java = the('java'):call('null')
             if not tostring(java):find('NullPointerException', 1, true) then
                 return ngx.print('java: ', tostring(java))
             end
         end
         ngx.print(ask_all(1, 0) or 'right')",
        )
        .start();
    warm(&nginx);
    let workers = nginx.workers();
    // Enough for workers of all orders, and for code to be compiled.
    for _ in 0..5 {
        for _ in 0..10 {
            assert_eq!(nginx.text("/faults"), "right");
        }
        nginx.replace_workers(EXIT_PROMISE);
    }
    assert!(nginx.workers().is_disjoint(&workers));
    await_exits(&nginx, 5 * WORKERS);
}

/// Libraries that take every fault for a crash may come after a language runtime,
/// or before it: a crash reporter in C, Python's `faulthandler`. A null reference is
/// an exception nevertheless, and a crash is reported by all of them.
#[test]
fn crash_reporters_leave_their_faults_to_languages() {
    if !missing().is_empty() {
        return;
    }
    let mut nginx = builder()
        .workers(1)
        .plugin("report")
        .init(
            "options.report = { runtime = 'c', library = 'report' }
                 local used = {}
                 -- The first word is the file for reports, the others are languages.
                 function load_in_order(words)
                     for word in words:gmatch('[^,]+') do
                         local given = options[word]
                         if word == 'on' or word == 'off' then
                             local verb = word == 'on' and 'enable' or 'disable'
                             local file = word == 'on'
                                 and \"open('\" .. used.file .. \"','a')\" or ''
                             assert(used.python:call(\"python __import__('faulthandler').\"
                                                     .. verb .. '(' .. file .. ')'))
                         elseif given then
                             given.config = word == 'report' and used.file
                                 or word ~= 'go' and harness.counters or nil
                             used[word] = assert(nbffi.load(given))
                         else
                             used.file = word
                         end
                     end
                     return used
                 end",
        )
        .location(
            "/null",
            "local used = load_in_order(ngx.var.args)
                 for i = 1, 3 do
                     local _, go, _, message = used.go:call('dereference x')
                     if not tostring(message):find('nil pointer', 1, true) then
                         return ngx.print('go: ', tostring(go))
                     end
                     local _, java = used.java:call('null')
                     if not tostring(java):find('NullPointerException', 1, true) then
                         return ngx.print('java: ', tostring(java))
                     end
                 end
                 ngx.print('right')",
        )
        .location(
            "/crash",
            "load_in_order('').python:call(
                     \"python __import__('ctypes').string_at(0)\")",
        )
        .start();
    let orders = [
        "java,go,python,report,on",
        "python,on,java,go,report",
        "go,report,java,python,on",
        "report,go,python,on,java",
        "java,report,python,go,on,off,on",
    ];
    nginx.allow_crashes(orders.len(), "exited on signal");
    for order in orders {
        let worker = nginx.worker();
        let file = nginx.dir().join("prefix").join(order);
        let file = file.to_str().unwrap().replace(',', "-");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        for more in ["", ",off", ",on", ",on", ",off,off", ",on"] {
            let answer = nginx.text(&format!("/null?{file},{order}{more}"));
            assert_eq!(answer, "right", "{order}{more}");
        }
        let _ = nginx.client().get("/crash");
        nginx.wait_gone(worker, EXIT_PROMISE);
        let report = fs::read_to_string(&file).unwrap();
        assert!(
            report.contains("Fatal Python error: Segmentation fault"),
            "{order}: {report}"
        );
        assert!(report.contains("ctypes"), "{order}: {report}");
        assert!(
            report.contains("a C library reports signal 11"),
            "{order}: {report}"
        );
        eventually("there is another worker", || {
            nginx.workers().iter().any(|other| *other != worker)
        });
    }
}
