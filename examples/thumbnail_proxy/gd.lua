-- The part of libgd that thumbnails need, by LuaJIT's FFI. Pictures are objects
-- of C outside of Lua's memory: their owner frees them, or the collector does.

local ffi = require "ffi"

local error = error
local ffi_cast = ffi.cast
local ffi_gc = ffi.gc
local ffi_new = ffi.new
local ffi_string = ffi.string
local ipairs = ipairs
local pcall = pcall


ffi.cdef[[
typedef struct gdImageStruct gdImage;
typedef struct gdFontStruct gdFont;

gdImage *gdImageCreateTrueColor(int width, int height);
gdImage *gdImageCreateFromJpegPtr(int size, void *data);
gdImage *gdImageCreateFromPngPtr(int size, void *data);
void gdImageDestroy(gdImage *image);
void gdImageAlphaBlending(gdImage *image, int blending);
void gdImageFilledRectangle(gdImage *image, int x1, int y1, int x2, int y2,
                            int color);
void gdImageCopy(gdImage *to, gdImage *from, int to_x, int to_y, int from_x,
                 int from_y, int width, int height);
void gdImageCopyResampled(gdImage *to, gdImage *from, int to_x, int to_y,
                          int from_x, int from_y, int to_width, int to_height,
                          int from_width, int from_height);
gdFont *gdFontGetLarge(void);
void gdImageString(gdImage *image, gdFont *font, int x, int y,
                   const char *text, int color);
void *gdImageJpegPtr(gdImage *image, int *size, int quality);
void gdFree(void *data);
]]


-- The library's name with its version is on every machine; the bare name is
-- only where the files for developers are.
local function load_library()
    local first
    for _, name in ipairs{ "libgd.so.3", "gd" } do
        local ok, lib = pcall(ffi.load, name)
        if ok then
            return lib
        end
        first = first or lib
    end
    error("libgd is missing (Debian's package libgd3): " .. first, 0)
end


local gd = load_library()
local size_out = ffi_new("int[1]")


local _M = {}


local CREATE = {
    jpeg = gd.gdImageCreateFromJpegPtr,
    png = gd.gdImageCreateFromPngPtr,
}


local function owned(image)
    if image == nil then
        return nil
    end
    return ffi_gc(image, gd.gdImageDestroy)
end


-- A picture out of a file's bytes; nil if it is broken. `format` is "jpeg" or
-- "png".
function _M.decode(format, bytes)
    local data = ffi_cast("void *", ffi_cast("const char *", bytes))
    return owned(CREATE[format](#bytes, data))
end


-- A black picture, or a transparent one if nothing is blended into it.
function _M.new(width, height)
    return owned(gd.gdImageCreateTrueColor(width, height))
end


-- Frees a picture now: the collector does not know how much memory it has.
function _M.free(image)
    gd.gdImageDestroy(ffi_gc(image, nil))
end


-- `color` is 0xAARRGGBB; alpha is 0 for opaque to 127 for invisible.
function _M.fill(image, width, height, color)
    gd.gdImageAlphaBlending(image, 0)
    gd.gdImageFilledRectangle(image, 0, 0, width - 1, height - 1, color)
    gd.gdImageAlphaBlending(image, 1)
end


-- Writes a text in letters of 8x16 pixels.
function _M.text(image, x, y, text, color)
    gd.gdImageString(image, gd.gdFontGetLarge(), x, y, text, color)
end


-- Puts a picture onto another one, in its own size.
function _M.put(to, from, x, y, width, height)
    gd.gdImageCopy(to, from, x, y, 0, 0, width, height)
end


-- The same picture in another size.
function _M.resized(image, width, height, new_width, new_height)
    local result = _M.new(new_width, new_height)
    if result then
        gd.gdImageCopyResampled(result, image, 0, 0, 0, 0, new_width,
                                new_height, width, height)
    end
    return result
end


-- The bytes of a JPEG file, or nil if there is no memory. `quality` is 1 to
-- 100.
function _M.jpeg(image, quality)
    local data = gd.gdImageJpegPtr(image, size_out, quality)
    if data == nil then
        return nil
    end
    local bytes = ffi_string(data, size_out[0])
    gd.gdFree(data)
    return bytes
end


return _M
