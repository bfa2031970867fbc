//! The examples for `runtime = "lua"`: a firewall, a proxy that makes
//! thumbnails, a blocking client. Each with its own `nginx.conf`, and with what
//! its README.md says.
//!
//! | file           | role |
//! |----------------|------|
//! | [`example`]    | an example's configuration, under the harness |
//! | [`raw`]        | requests byte by byte |
//! | [`waf`]        | examples/waf |
//! | [`thumbnails`] | examples/thumbnail_proxy |
//! | [`client`]     | examples/luasocket_client |
//! | [`readme`]     | examples/run.sh, and the commands of the READMEs |

#[path = "lua_examples/client.rs"]
mod client;
#[path = "docs/document.rs"]
#[allow(dead_code, reason = "documents other than READMEs of examples")]
mod document;
#[path = "lua_examples/example.rs"]
mod example;
#[path = "lua_examples/raw.rs"]
mod raw;
#[path = "lua_examples/readme.rs"]
mod readme;
#[path = "lua_examples/thumbnails.rs"]
mod thumbnails;
#[path = "lua_examples/waf.rs"]
mod waf;
