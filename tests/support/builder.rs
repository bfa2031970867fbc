//! What an nginx is to be like, and its start.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::folder::{Folder, copy, set_mode};
use crate::plugins::{self, Counters};
use crate::{Nginx, process, root};

/// What an nginx is to be like.
#[derive(Default)]
pub struct Builder {
    root: Option<PathBuf>,
    workers: Option<usize>,
    main: String,
    setup: String,
    init: String,
    init_worker: String,
    http: String,
    server: String,
    socket_dirs: Option<Vec<PathBuf>>,
    read_only_prefix: bool,
    plugins: Vec<String>,
    files: Vec<(PathBuf, String)>,
    preload: Option<String>,
}

impl Builder {
    /// The repository whose library is used, and its Lua code; this one by default.
    pub fn root(mut self, root: &Path) -> Self {
        self.root = Some(root.to_owned());
        self
    }

    /// How many workers it has; 1 by default.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// More directives outside of `http`.
    pub fn main(mut self, text: &str) -> Self {
        self.main.push_str(text);
        self
    }

    /// More options for `nbffi.setup`, in Lua: `"timeout = 5, "`.
    pub fn setup(mut self, text: &str) -> Self {
        self.setup.push_str(text);
        self
    }

    /// More Lua code for `init_by_lua`.
    pub fn init(mut self, text: &str) -> Self {
        self.init.push_str(text);
        self
    }

    /// Lua code for `init_worker_by_lua`.
    pub fn init_worker(mut self, text: &str) -> Self {
        self.init_worker.push_str(text);
        self
    }

    /// More directives of `http`.
    pub fn http(mut self, text: &str) -> Self {
        self.http.push_str(text);
        self
    }

    /// A location whose content is this Lua code.
    pub fn location(mut self, path: &str, code: &str) -> Self {
        self.server.push_str(&format!(
            "location = {path} {{ content_by_lua_block {{\n{code}\n}} }}\n"
        ));
        self
    }

    /// More directives of `server`.
    pub fn server(mut self, text: &str) -> Self {
        self.server.push_str(text);
        self
    }

    /// Where sockets may be made, instead of a folder of the test's own.
    pub fn socket_dirs(mut self, directories: &[&Path]) -> Self {
        self.socket_dirs = Some(directories.iter().map(|path| path.to_path_buf()).collect());
        self
    }

    /// Neither nginx nor its workers may write to nginx's prefix.
    pub fn read_only_prefix(mut self) -> Self {
        self.read_only_prefix = true;
        self
    }

    /// Another plugin to copy to where `library = "<name>"` finds it. The
    /// plugins `fault` and `echo` always are there.
    pub fn plugin(mut self, name: &str) -> Self {
        self.plugins.push(name.to_owned());
        self
    }

    /// A file or folder of the repository, to copy to a place in nginx's prefix.
    pub fn copy(mut self, from: impl AsRef<Path>, to: &str) -> Self {
        self.files.push((root().join(from), to.to_owned()));
        self
    }

    /// The Lua modules that tests in `t/` use, too.
    pub fn test_modules(self) -> Self {
        let files =
            ["board", "runaways", "test_plugins", "vm_jobs"].map(|name| format!("{name}.lua"));
        files.iter().fold(self, |builder, file| {
            builder.copy(format!("t/plugins/{file}"), &format!("lua/{file}"))
        })
    }

    /// The runtime of a language and the code in it for tests, in `lib/python`,
    /// `lib/java` and `lib/libgo_verbs.so`; nothing if it was not built.
    pub fn language(self, language: &str) -> Self {
        match language {
            _ if !plugins::has(language) => self,
            "python" => self
                .plugin("nonblocking_ffi_python")
                .copy("tests/python", "lib/python"),
            "java" => self
                .plugin("nonblocking_ffi_java")
                .copy("target/test-plugins/java/faults", "lib/java"),
            "go" => self.copy("target/test-plugins/libgo_verbs.so", "lib/libgo_verbs.so"),
            _ => self,
        }
    }

    /// A shared object that is loaded before all others (`LD_PRELOAD`).
    pub fn preload(mut self, name: &str) -> Self {
        self.preload = Some(name.to_owned());
        self
    }

    /// Starts nginx and waits until it answers.
    pub fn start(self) -> Nginx {
        // Somebody else may take the port between our look and nginx's bind.
        for _ in 0..5 {
            if let Some(nginx) = self.try_start() {
                return nginx;
            }
        }
        panic!("no free port found");
    }

    fn try_start(&self) -> Option<Nginx> {
        let dir = Folder::new();
        let library = dir.make("prefix/lib", 0o755);
        dir.make("logs", 0o755);
        for open in ["temp", "sockets"] {
            dir.make(open, 0o777);
        }
        // Copies, since an unprivileged worker may not be able to enter the
        // folders in which the originals are.
        let root = self.root.as_deref().unwrap_or(root());
        copy(&root.join("lua"), &dir.join("prefix/lua"));
        let harness = include_str!("harness.lua");
        dir.write("prefix/lua/harness.lua", harness);
        let core = plugins::core(root);
        copy(&core, &library.join("libnonblocking_ffi.so"));
        plugins::install("fault", &library);
        plugins::install("echo", &library);
        for name in &self.plugins {
            plugins::install(name, &library);
        }
        for (from, to) in &self.files {
            copy(from, &dir.join("prefix").join(to));
        }
        let counters = Counters::create(&dir.join("counters"));

        let (port, workers) = (free_port(), self.workers.unwrap_or(1));
        let configuration = self.configuration(&dir, port, workers);
        dir.write("prefix/nginx.conf", &configuration);
        if self.read_only_prefix {
            set_mode(&dir.join("prefix"), 0o555);
        }
        let preload = self.preload.as_deref().map(plugins::find);
        let mut nginx = Nginx::new(spawn(&dir, preload.as_deref()), dir, port, counters);
        if nginx.wait_until_ready(workers) {
            return Some(nginx);
        }
        nginx.discard();
        None
    }

    fn configuration(&self, dir: &Path, port: u16, workers: usize) -> String {
        let dir_text = dir.display();
        let user =
            process::unprivileged_user().map_or(String::new(), |user| format!("user {user};"));
        let modules = nginx().load_modules();
        let own = [dir.join("sockets")];
        let socket_dirs: String = self
            .socket_dirs
            .as_deref()
            .unwrap_or(&own)
            .iter()
            .map(|path| format!("{path:?}, "))
            .collect();
        let Self {
            main,
            setup,
            init,
            init_worker,
            http,
            server,
            ..
        } = self;
        format!(
            r#"
{modules}
{user}
daemon off;
worker_processes {workers};
pid {dir_text}/logs/nginx.pid;
{main}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {dir_text}/temp/body;
    proxy_temp_path {dir_text}/temp/proxy;
    fastcgi_temp_path {dir_text}/temp/fastcgi;
    uwsgi_temp_path {dir_text}/temp/uwsgi;
    scgi_temp_path {dir_text}/temp/scgi;
    client_max_body_size 256m;
    client_body_buffer_size 256m;
    keepalive_requests 1000000;
    lua_package_path "$prefix/lua/?.lua;;";
    lua_package_cpath "$prefix/lib/?.so;;";
    {http}
    init_by_lua_block {{
        nbffi = require "resty.nonblocking_ffi"
        harness = require "harness"
        harness.counters = "{dir_text}/counters"
        nbffi.setup {{ socket_dirs = {{ {socket_dirs} }}, {setup} }}
        {init}
    }}
    init_worker_by_lua_block {{
        {init_worker}
    }}
    server {{
        listen 127.0.0.1:{port};
        location = /ready {{ return 204; }}
        location = /pid {{ content_by_lua_block {{ ngx.print(ngx.worker.pid()) }} }}
        location = /stats {{ content_by_lua_block {{ harness.dump(nbffi.stats()) }} }}
        {server}
    }}
}}
"#
        )
    }
}

/// The nginx to test with, as `scripts/nginx-env.sh` found it.
pub struct Binary {
    path: String,
    modules: Vec<String>,
}

impl Binary {
    /// The command that starts it, without arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        // nginx takes a variable of this name for the sockets that it inherits.
        command.env_remove("NGINX");
        command
    }

    /// The directives that load its Lua module, as far as it needs any.
    pub fn load_modules(&self) -> String {
        self.modules
            .iter()
            .map(|module| format!("load_module {module};\n"))
            .collect()
    }
}

/// The nginx to test with; the first call looks for it.
pub fn nginx() -> &'static Binary {
    static BINARY: OnceLock<Binary> = OnceLock::new();
    BINARY.get_or_init(|| {
        let output = Command::new("sh")
            .arg(root().join("scripts/nginx-env.sh"))
            .output()
            .expect("sh");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim_matches(&['=', '\''][..]).to_owned()
        };
        let modules = value("TEST_NGINX_LOAD_MODULES");
        Binary {
            path: value("TEST_NGINX_BINARY"),
            modules: modules.split_whitespace().map(str::to_owned).collect(),
        }
    })
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn spawn(dir: &Path, preload: Option<&Path>) -> Child {
    let prefix = dir.join("prefix");
    let output = fs::File::create(dir.join("logs/output")).unwrap();
    let mut command = nginx().command();
    command
        .arg("-p")
        .arg(format!("{}/", prefix.display()))
        .arg("-c")
        .arg(prefix.join("nginx.conf"))
        .arg("-g")
        .arg(format!(
            "error_log {}/logs/error.log notice;",
            dir.display()
        ))
        .current_dir(&prefix)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        // Control-C is for what has started it.
        .process_group(0);
    if let Some(library) = preload {
        command.env("LD_PRELOAD", library);
    }
    // SAFETY: prctl with these arguments is a plain system call, which may be
    // made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // A test run that is killed leaves no nginx behind.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    command.spawn().expect("nginx does not start")
}
