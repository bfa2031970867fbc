rockspec_format = "3.0"
package = "lua-resty-nonblocking-ffi"
version = "0.1.0-1"

source = {
   url = "git+https://github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi.git",
   tag = "v0.1.0",
}

description = {
   summary = "Runs blocking and CPU-heavy work of OpenResty off the event loop",
   detailed = [[
      Runs functions in Lua, Python, Java and Go, and plugins in C, C++, Rust or
      any other language with a C ABI, in nginx workers, and calls them from Lua
      without blocking the event loop: on pools of threads, with deadlines,
      priorities and cancellation. Building needs cargo (Rust 1.88 or later); for
      Java also a JDK, 17 or later, without which Java is left out.
   ]],
   homepage = "https://github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi",
   license = "Apache-2.0",
   labels = { "openresty", "nginx", "ffi", "threads" },
}

supported_platforms = { "linux" }

dependencies = {
   "lua == 5.1", -- LuaJIT, in nginx
}

build = {
   type = "command",
   build_command = "sh scripts/build-core.sh && sh scripts/build-runtimes.sh",
   install_command = [[sh scripts/install.sh "$(LUADIR)" "$(LIBDIR)" "$(PREFIX)/include"]],
   copy_directories = { "docs" },
}
