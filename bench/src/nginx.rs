//! The nginx that everything runs in: the one of the tests, with one worker.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use support::folder::Folder;
use support::http::Client;
use support::process::Signal;
use support::{EXIT_PROMISE, builder, plugins, root};

use crate::languages::{self, Language, Server};
use crate::{Result, echo_server};

/// Plugins, by the name of their source, and where that is in the repository.
const PLUGINS: [(&str, &str); 4] = [
    ("echo", "examples/echo/echo.c"),
    ("copy", "bench/plugins/copy.c"),
    ("sleep", "bench/plugins/sleep.c"),
    ("spin", "bench/plugins/spin.c"),
];

/// Directives of `http`; the options of all contenders are those that serve them best.
const HTTP: &str = "
    # No connection is closed, and no timer fires, while something is measured.
    keepalive_timeout 1h;
    send_timeout 1h;

    # One kept connection for each of 64 calls in flight, and some more; the
    # buffer suits both a short answer and one of 100 KB.
    lua_socket_pool_size 128;
    lua_socket_keepalive_timeout 1h;
    lua_socket_buffer_size 16k;
    # Each call in flight occupies one Lua VM.
    lua_worker_thread_vm_pool_size 128;
";

const INIT: &str = "
    local folder = ngx.config.prefix() .. '..'
    bench = require 'bench'
    bench.init {
        libraries = folder .. '/prefix/lib',
        socket_dir = folder .. '/sockets',
        echo_socket = 'unix:' .. folder .. '/echo.sock',
        folder = folder,
        java_home = '{{java_home}}',
    }
";

/// A running nginx; stopped, and its folder removed, when dropped.
pub struct Nginx {
    /// Before the folder, in which their sockets are.
    servers: Vec<Server>,
    nginx: support::Nginx,
    worker: i32,
}

impl Nginx {
    /// Starts it with the library of a repository that is built, and the servers of
    /// these languages.
    pub fn start(repository: &Path, languages: &BTreeSet<Language>) -> Result<Self> {
        let built = Folder::new();
        let cores = thread::available_parallelism()?.get();
        // For ngx.run_worker_thread: as many threads as our pools have by default.
        let threads = format!("thread_pool bench threads={cores} max_queue=65536;");
        let java_home = languages::java_home().unwrap_or_default();
        let mut builder = support::Nginx::builder()
            .root(repository)
            .main("worker_rlimit_nofile 4096;")
            .main(&threads)
            .http(HTTP)
            .init(&INIT.replace("{{java_home}}", &java_home.display().to_string()))
            .init_worker("bench.init_worker()")
            .copy(repository.join("bench/lua"), "lua")
            // Workloads within one request: what they are is in the arguments.
            .location("/loop", "bench.loop()")
            .location("/saturate", "bench.saturate()")
            .location("/relax", "bench.relax()")
            // One call per request. The empty handler is empty: what the others take
            // longer is their call.
            .location("/once/empty", "");
        for name in ["yield", "ours", "thread", "socket"] {
            builder = builder.location(&format!("/once/{name}"), &format!("bench.once.{name}()"));
        }
        let headers = format!("-I{}", repository.join("include").display());
        for (name, source) in PLUGINS {
            let library = built.join(format!("lib{name}.so"));
            plugins::compile(&root().join(source), &library, &[&headers]);
            builder = builder.copy(library, &format!("lib/lib{name}.so"));
        }
        let nginx = builder.start();
        let dir = nginx.dir();
        echo_server::start(&dir.join("echo.sock"))?;
        let mut servers = Vec::new();
        for language in languages {
            language.install(repository, dir)?;
            servers.extend(language.serve(dir)?);
        }
        Ok(Self {
            worker: nginx.worker(),
            servers,
            nginx,
        })
    }

    /// A connection to it.
    pub fn client(&self) -> Client {
        self.nginx.client()
    }

    /// The worker's process.
    pub fn worker(&self) -> i32 {
        self.worker
    }

    /// What it listens on.
    pub fn port(&self) -> u16 {
        self.nginx.port()
    }

    /// The body of a GET; an error unless the status is 200.
    pub fn get(&self, path: &str) -> Result<String> {
        get(&mut self.client(), path)
    }

    /// Stops it, whatever it does, and returns what it has logged.
    pub fn stop(mut self) -> String {
        self.nginx.stop(Signal::Term, EXIT_PROMISE);
        drop(self.servers);
        self.nginx.log()
    }

    /// Stops it; an error if anything went wrong that the answers did not show: a
    /// worker that died, errors in the log.
    pub fn finish(self) -> Result<()> {
        let is_there = self.nginx.workers() == BTreeSet::from([self.worker]);
        let log = self.stop();
        if !is_there {
            return Err(format!("the worker was replaced\n{log}").into());
        }
        match log.lines().find(|line| line.contains("[error]")) {
            Some(line) => Err(format!("nginx said: {line}").into()),
            None => Ok(()),
        }
    }
}

/// The body of a GET; an error unless the status is 200.
pub fn get(client: &mut Client, path: &str) -> Result<String> {
    let response = client.get(path);
    let response = response.map_err(|error| format!("GET {path}: {error}"))?;
    match response.status {
        200 => Ok(response.text()),
        status => Err(format!("GET {path}: status {status}: {}", response.text()).into()),
    }
}

/// What nginx says it is.
pub fn version() -> Result<String> {
    let output = builder::nginx().command().arg("-v").output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let version = text.trim().rsplit(": ").next().unwrap_or_default();
    Ok(version.to_owned())
}
