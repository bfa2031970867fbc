-- Makes thumbnails. Runs in the VM of a pool thread, which keeps between calls
-- what is dear: the mark that is put onto each thumbnail, and the pictures that
-- were decoded last.

local gd = require "gd"
local header = require "header"
local worker = require "resty.nonblocking_ffi.worker"

local find = string.find
local floor = math.floor
local format = string.format
local io_open = io.open
local is_cancelled = worker.is_cancelled
local max = math.max
local min = math.min
local ngx = ngx
local remove = table.remove
local table_insert = table.insert


local _M = {}


local ROOT = ngx.config.prefix() .. "html/"
local MAX_BYTES = 32 * 1024 * 1024
-- A pixel is 4 bytes in memory.
local MAX_PIXELS = 50e6
-- Pixels of pictures that a VM keeps decoded.
local KEPT_PIXELS = 20e6
local QUALITY = 82

local MARK = { text = "example", width = 68, height = 20 }
local SHADE, WHITE = 0x40000000, 0x10ffffff


-- Drawn when the VM loads this module, and never again.
local mark = gd.new(MARK.width, MARK.height)
gd.fill(mark, MARK.width, MARK.height, SHADE)
gd.text(mark, 6, 2, MARK.text, WHITE)


-- Pictures, the one used last first: { name, bytes, image, width, height }.
local kept, kept_pixels = {}, 0


local function keep(picture)
    table_insert(kept, 1, picture)
    kept_pixels = kept_pixels + picture.width * picture.height
    while kept_pixels > KEPT_PIXELS and #kept > 1 do
        local last = remove(kept)
        kept_pixels = kept_pixels - last.width * last.height
        gd.free(last.image)
    end
end


-- A picture that was decoded before, if the file is still the same.
local function find_kept(name, bytes)
    for i = 1, #kept do
        local picture = kept[i]
        if picture.name == name then
            remove(kept, i)
            if picture.bytes == bytes then
                table_insert(kept, 1, picture)
                return picture
            end
            kept_pixels = kept_pixels - picture.width * picture.height
            gd.free(picture.image)
            return nil
        end
    end
    return nil
end


local function read(name)
    -- Letters, digits and slashes; no dot but within a name.
    if not find(name, "^[%w_-][%w_./ -]*$") or find(name, "..", 1, true) then
        return nil, 404, "no such picture"
    end
    local file = io_open(ROOT .. name, "rb")
    if not file then
        return nil, 404, "no such picture"
    end
    local bytes = file:read(MAX_BYTES + 1)
    file:close()
    if not bytes then
        return nil, 404, "no such picture"
    end
    if #bytes > MAX_BYTES then
        return nil, 413, "a file of more than " .. MAX_BYTES .. " bytes"
    end
    return bytes
end


local function decode(name, bytes)
    local kind, width, height = header(bytes)
    if not kind then
        return nil, 415, "neither JPEG nor PNG"
    end
    if width * height > MAX_PIXELS then
        return nil, 413, format("a picture of %d x %d pixels", width, height)
    end
    local image = gd.decode(kind, bytes)
    if not image then
        return nil, 415, "a broken picture"
    end
    return {
        name = name, bytes = bytes, image = image, width = width,
        height = height,
    }
end


-- syntax: jpeg, note = thumb.make(name, width, height)
--
-- Fits the picture of a name below html/ into a box of pixels. It keeps its
-- proportions, and is never enlarged. Returns the bytes of a JPEG file, and a
-- note: "decoded", or "kept" if the VM had the picture already. Or nil, a
-- status for HTTP, and why.
function _M.make(name, width, height)
    local bytes, status, err = read(name)
    if not bytes then
        return nil, status, err
    end
    local picture, note = find_kept(name, bytes), "kept"
    if not picture then
        picture, status, err = decode(name, bytes)
        if not picture then
            return nil, status, err
        end
        note = "decoded"
        keep(picture)
    end
    -- Decoding may have taken longer than anybody waits.
    if is_cancelled() then
        return nil, 499, "nobody waits any more"
    end

    local scale = min(width / picture.width, height / picture.height, 1)
    local new_width = max(1, floor(picture.width * scale + 0.5))
    local new_height = max(1, floor(picture.height * scale + 0.5))
    local small = gd.resized(picture.image, picture.width, picture.height,
                             new_width, new_height)
    if not small then
        return nil, 500, "no memory"
    end
    gd.put(small, mark, new_width - MARK.width - 4,
           new_height - MARK.height - 4, MARK.width, MARK.height)
    local jpeg = gd.jpeg(small, QUALITY)
    gd.free(small)
    if not jpeg then
        return nil, 500, "no memory"
    end
    return jpeg, note
end


return _M
