//! An nginx with a configuration as it is printed in a document.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::document::{Block, run};
use support::folder::Folder;
use support::http::Client;
use support::process::{self, Signal};
use support::{builder, eventually, plugins, root};

/// An nginx with a configuration as it is printed.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub port: u16,
    folder: Folder,
}

impl Server {
    /// Starts it, in front of what `scripts/install.sh` installs.
    pub fn start(block: &Block) -> Self {
        // Somebody else may take the port between our look and nginx's bind.
        let mut attempts = (0..5).map(|_| Self::try_start(block));
        let started = attempts.find_map(|server| server);
        started.unwrap_or_else(|| panic!("{}: nginx does not start", block.place))
    }

    fn try_start(block: &Block) -> Option<Self> {
        let folder = Folder::new();
        let logs = folder.make("logs", 0o777);
        let temp = folder.make("temp", 0o777);
        let installed = folder.make("installed", 0o755);
        let (lua, lib) = (installed.join("lua"), installed.join("lib"));
        let mut install = Command::new("sh");
        install.arg("scripts/install.sh").args([&lua, &lib]);
        install.arg(installed.join("include")).current_dir(root());
        run(&block.place, &mut install);
        for name in ["blocking", "echo"] {
            plugins::install(name, &lib);
        }

        let port = builder::free_port();
        let mut inside: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {}/{what};\n", temp.display()))
            .concat();
        inside += "access_log off;\n";
        if !block.code.contains("lua_package_path") {
            let (lua, lib) = (lua.display(), lib.display());
            inside += &format!("lua_package_path '{lua}/?.lua;;';\n");
            inside += &format!("lua_package_cpath '{lib}/?.so;;';\n");
        }
        let mut conf = match block.kind.as_str() {
            "nginx http" => {
                let server = match block.code.contains("listen ") {
                    true => "",
                    false => "server { listen 127.0.0.1:8080; }",
                };
                format!("events {{}}\nhttp {{\n{}\n{server}\n}}\n", block.code)
            }
            _ => block.code.clone(),
        };
        assert!(
            conf.contains("127.0.0.1:8080"),
            "{}: no listen",
            block.place
        );
        conf = conf.replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"));
        conf = conf.replacen("http {\n", &format!("http {{\n{inside}"), 1);
        let path = folder.join("nginx.conf");
        fs::write(&path, conf).unwrap();

        let mut main = format!(
            "daemon off; pid {0}/pid; error_log {0}/error.log notice;",
            logs.display()
        );
        main += &builder::nginx().load_modules();
        if let Some(user) = process::unprivileged_user() {
            main += &format!(" user {user};");
        }
        let nginx = || {
            let mut nginx = builder::nginx().command();
            nginx.arg("-p").arg(&*folder).arg("-c").arg(&path);
            nginx.arg("-g").arg(&main).stdin(Stdio::null());
            nginx
        };
        run(&block.place, nginx().arg("-t"));
        let output = fs::File::create(logs.join("output")).unwrap();
        let child = nginx().stderr(output).spawn().unwrap();
        let mut server = Self {
            child,
            port,
            folder,
        };
        // A signal that comes before there are workers is lost.
        let mut ended = false;
        eventually("nginx is up or has ended", || {
            ended = server.child.try_wait().unwrap().is_some();
            ended || server.log().contains("start worker process ")
        });
        (!ended).then_some(server)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("logs/error.log")).unwrap_or_default()
    }

    /// Every exact location answers, and nothing is wrong in the log.
    pub fn check(&self, block: &Block) {
        let rest = block.code.split("location = ").skip(1);
        for path in rest.filter_map(|rest| rest.split_whitespace().next()) {
            let response = Client::new(self.port).get(path).unwrap();
            let status = response.status;
            assert_eq!(status, 200, "{}: {path}\n{}", block.place, self.log());
        }
        for level in ["[emerg]", "[alert]", "[crit]", "[error]", "[warn]"] {
            let log = self.log();
            assert!(!log.contains(level), "{}:\n{log}", block.place);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            process::signal(self.child.id() as i32, Signal::Quit);
            let _ = self.child.wait();
        }
    }
}
