//! A plugin whose calls are futures, in a real nginx: the example that is a
//! client of Redis, before a real Redis that comes, goes and hangs.

use std::path::{Path, PathBuf};

use support::builder::Builder;
use support::folder::{Folder, set_mode};
use support::http::Load;
use support::process::{self, Signal};
use support::redis::Redis;
use support::{EXIT_PROMISE, Nginx, Size, eventually};

/// A Redis in a folder of its own, and its place there.
fn redis() -> (Redis, PathBuf, Folder) {
    let folder = Folder::new();
    // Redis may belong to another user.
    set_mode(&folder, 0o777);
    let socket = folder.join("socket");
    (Redis::start(&socket), socket, folder)
}

/// An nginx with a function `command` for that Redis, and a location that runs
/// the words of its query as one.
fn builder(socket: &Path) -> Builder {
    let url = format!("redis+unix://{}", socket.display());
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
    let (_redis, socket, _folder) = redis();
    let nginx = builder(&socket)
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
    let (_redis, socket, _folder) = redis();
    let nginx = builder(&socket)
        .location(
            "/many",
            "local sum = 0
             harness.together(2000, function()
                 local res = command(nil, 'INCR', 'counter')
                 sum = sum + tonumber(res)
             end)
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
    let (redis, socket, _folder) = redis();
    let nginx = builder(&socket)
        .location(
            "/hang",
            "local futures = {}
             local late = 0
             harness.together(100, function()
                 local res, err = command({ timeout = 0.05 }, 'GET', 'a')
                 late = late + (not res and err == 'timeout' and 1 or 0)
             end)
             local future = client():submit('3:GET,1:a,')
             ngx.sleep(0.02)
             future:cancel()
             -- Nobody waits for this one, but its deadline.
             assert(client():cast('3:GET,1:a,', { timeout = 0.05 }))
             ngx.print(late)",
        )
        .start();
    assert_eq!(nginx.text("/command?SET%20a%20b"), "OK");
    process::signal(redis.pid(), libc::SIGSTOP);
    assert_eq!(nginx.text("/hang"), "100");
    eventually("all calls were dropped", || {
        nginx.figure("slots.used") == 0.0
    });
    process::signal(redis.pid(), libc::SIGCONT);
    assert_eq!(nginx.text("/command?GET%20a"), "b");
}

#[test]
fn a_redis_that_goes_away_and_comes_back() {
    let (redis, socket, _folder) = redis();
    let nginx = builder(&socket).start();
    let worker = nginx.worker();
    assert_eq!(nginx.text("/command?SET%20a%20b"), "OK");
    drop(redis);
    eventually("calls fail", || {
        nginx.text("/command?GET%20a").ends_with(" (503)")
    });
    let _redis = Redis::start(&socket);
    eventually("calls work again", || nginx.text("/command?PING") == "PONG");
    assert_eq!(nginx.text("/command?GET%20a"), " (1)");
    assert_eq!(nginx.worker(), worker);
}

#[test]
fn without_a_redis_it_is_not_loaded() {
    let (redis, socket, _folder) = redis();
    let nginx = builder(&socket)
        .location("/load", "ngx.print(select(2, pcall(client)))")
        .location(
            "/url",
            "ngx.print(select(2, nbffi.load { runtime = 'c', library = 'async_client',
                                              config = 'no url' }))",
        )
        .start();
    drop(redis);
    let error = nginx.text("/load");
    assert!(error.contains("libasync_client.so\": "), "{error}");
    let error = nginx.text("/url");
    assert!(error.contains("the URL of a Redis server"), "{error}");
    let _redis = Redis::start(&socket);
    assert_eq!(nginx.text("/command?PING"), "PONG");
}

#[test]
fn reload_and_stop_under_load() {
    let (_redis, socket, _folder) = redis();
    let mut nginx = builder(&socket)
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
