//! A plugin whose calls are futures, in a real nginx: the example that is a
//! client of Redis, before a real Redis that comes, goes and hangs.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use support::builder::Builder;
use support::http::Load;
use support::process::Signal;
use support::{EXIT_PROMISE, Nginx, PATIENCE, Size, eventually};

/// A Redis on a socket in a folder of its own.
struct Redis {
    folder: PathBuf,
    server: Option<Child>,
}

impl Redis {
    fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("nbffi-{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let mut redis = Self {
            folder,
            server: None,
        };
        redis.restart();
        redis
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    fn restart(&mut self) {
        let socket = self.socket();
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .args(["--unixsocketperm", "777", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        self.server = Some(server.expect("redis-server is needed"));
        eventually("Redis answers", PATIENCE, || {
            UnixStream::connect(&socket).is_ok()
        });
    }

    fn signal(&self, signal: i32) {
        let server = self.server.as_ref().expect("it runs").id();
        // SAFETY: a signal for a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(server as i32, signal) }, 0);
    }

    fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
            let _ = fs::remove_file(self.socket());
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// An nginx with a function `command` for that Redis, and a location that runs
/// the words of its query as one.
fn builder(redis: &Redis) -> Builder {
    let url = format!("redis+unix://{}", redis.socket().display());
    Nginx::builder()
        .plugin("async_client")
        .init(&format!(
            "function client()
                 return assert(nbffi.load {{
                     runtime = 'c', library = 'async_client', config = '{url}'
                 }})
             end
             function command(opts, ...)
                 local words = {{ ... }}
                 for i = 1, #words do
                     local word = tostring(words[i])
                     words[i] = #word .. ':' .. word .. ','
                 end
                 return client():call(words, opts)
             end"
        ))
        .location(
            "/command",
            "local words = {}
             for word in ngx.unescape_uri(ngx.var.args):gmatch('[^ ]+') do
                 words[#words + 1] = word
             end
             local res, err, code, message = command(nil, unpack(words))
             ngx.print(res or err, code and ' (' .. code .. ')' or '')",
        )
}

#[test]
fn commands_and_their_answers() {
    let redis = Redis::start("commands");
    let nginx = builder(&redis)
        .location(
            "/bytes",
            "local value = {}
             for i = 0, 255 do value[i + 1] = string.char(i) end
             value = table.concat(value):rep(4000)
             assert(command(nil, 'SET', value:sub(1, 300), value) == 'OK')
             local res = command(nil, 'GET', value:sub(1, 300))
             ngx.print(res == value, ' ', #res)",
        )
        .location(
            "/broken",
            "local res, err, code = client():call('no netstring')
             ngx.print(err, ' ', code)",
        )
        .start();
    let ask = |words: &str| nginx.text(&format!("/command?{}", words.replace(' ', "%20")));
    assert_eq!(ask("SET a one"), "OK");
    assert_eq!(ask("GET a"), "one");
    assert_eq!(ask("GET missing"), " (1)");
    assert_eq!(ask("INCRBY n 41"), "41");
    assert_eq!(ask("MGET a missing n"), "3:one,-,2:41,");
    assert_eq!(ask("HSET h k v"), "1");
    assert_eq!(ask("HGETALL h"), "1:k,1:v,");
    let wrong = ask("LPUSH a x");
    assert!(
        wrong.contains("WRONGTYPE") && wrong.ends_with(" (422)"),
        "{wrong}"
    );
    assert!(ask("blpop list 0").ends_with(" (405)"));
    assert!(ask("NOSUCH").ends_with(" (422)"));
    assert!(nginx.text("/broken").ends_with(" 400"));
    assert_eq!(nginx.text("/bytes"), "true 1024000");
}

#[test]
fn all_calls_of_a_worker_use_one_connection() {
    let redis = Redis::start("one");
    let nginx = builder(&redis)
        .location(
            "/many",
            "local threads, sum = {}, 0
             for i = 1, 2000 do
                 threads[i] = ngx.thread.spawn(command, nil, 'INCR', 'counter')
             end
             for i = 1, 2000 do
                 local _, res = ngx.thread.wait(threads[i])
                 sum = sum + tonumber(res)
             end
             ngx.print(sum)",
        )
        .start();
    assert_eq!(nginx.text("/many"), (2000 * 2001 / 2).to_string());
    let info = nginx.text("/command?INFO%20stats");
    let connections = info
        .lines()
        .find_map(|line| line.strip_prefix("total_connections_received:"));
    // One of them was the look whether Redis answers.
    assert_eq!(connections, Some("2"), "{info}");
}

/// Calls are dropped, not only forgotten: nothing is in flight although Redis
/// has not answered.
#[test]
fn a_redis_that_hangs() {
    let redis = Redis::start("hangs");
    let nginx = builder(&redis)
        .location(
            "/hang",
            "local futures = {}
             local threads = {}
             for i = 1, 100 do
                 threads[i] = ngx.thread.spawn(command, { timeout = 0.05 }, 'GET', 'a')
             end
             local late = 0
             for i = 1, 100 do
                 local _, res, err = ngx.thread.wait(threads[i])
                 late = late + (not res and err == 'timeout' and 1 or 0)
             end
             local future = client():submit('3:GET,1:a,')
             ngx.sleep(0.02)
             future:cancel()
             -- Nobody waits for this one, but its deadline.
             assert(client():cast('3:GET,1:a,', { timeout = 0.05 }))
             ngx.print(late)",
        )
        .start();
    assert_eq!(nginx.text("/command?SET%20a%20b"), "OK");
    redis.signal(libc::SIGSTOP);
    assert_eq!(nginx.text("/hang"), "100");
    eventually("all calls were dropped", PATIENCE, || {
        nginx.figure("slots.used") == 0.0
    });
    redis.signal(libc::SIGCONT);
    assert_eq!(nginx.text("/command?GET%20a"), "b");
}

#[test]
fn a_redis_that_goes_away_and_comes_back() {
    let mut redis = Redis::start("away");
    let nginx = builder(&redis).start();
    let worker = nginx.worker();
    assert_eq!(nginx.text("/command?SET%20a%20b"), "OK");
    redis.kill();
    eventually("calls fail", PATIENCE, || {
        nginx.text("/command?GET%20a").ends_with(" (503)")
    });
    redis.restart();
    eventually("calls work again", PATIENCE, || {
        nginx.text("/command?PING") == "PONG"
    });
    assert_eq!(nginx.text("/command?GET%20a"), " (1)");
    assert_eq!(nginx.worker(), worker);
}

#[test]
fn without_a_redis_it_is_not_loaded() {
    let mut redis = Redis::start("none");
    let nginx = builder(&redis)
        .location("/load", "ngx.print(select(2, pcall(client)))")
        .location(
            "/url",
            "ngx.print(select(2, nbffi.load { runtime = 'c', library = 'async_client',
                                              config = 'no url' }))",
        )
        .start();
    redis.kill();
    let error = nginx.text("/load");
    assert!(error.contains("libasync_client.so\": "), "{error}");
    let error = nginx.text("/url");
    assert!(error.contains("the URL of a Redis server"), "{error}");
    redis.restart();
    assert_eq!(nginx.text("/command?PING"), "PONG");
}

#[test]
fn reload_and_stop_under_load() {
    let redis = Redis::start("reload");
    let mut nginx = builder(&redis)
        .workers(2)
        .location(
            "/echo",
            "local res, err = command(nil, 'ECHO', ngx.var.args)
             ngx.print(res or err)",
        )
        .start();
    let load = Load::start(&nginx, 8, "/echo?", "");
    load.outlive_reloads(&nginx, Size::Reloads.or(3), 100);
    let load = Load::start(&nginx, 8, "/echo?", "");
    load.await_more(100);
    nginx.stop(Signal::Term, EXIT_PROMISE);
    load.stop();
}
