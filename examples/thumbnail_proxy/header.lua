-- What the first bytes of a picture say: so that nobody makes us decode a
-- picture of a million megapixels.

local byte = string.byte
local sub = string.sub


local PNG = "\137PNG\r\n\26\n"


local function big_endian(bytes, from, count)
    local value = 0
    for i = from, from + count - 1 do
        value = value * 256 + (byte(bytes, i) or 0)
    end
    return value
end


-- Markers of JPEG that begin a frame, and have its size: 0xC0 to 0xCF, but for
-- the tables among them.
local function begins_frame(marker)
    return marker >= 0xc0 and marker <= 0xcf
           and marker ~= 0xc4 and marker ~= 0xc8 and marker ~= 0xcc
end


local function jpeg_size(bytes)
    local at = 3
    while at + 8 <= #bytes do
        if byte(bytes, at) ~= 0xff then
            return nil
        end
        local marker = byte(bytes, at + 1)
        if marker == 0xff then
            -- Padding.
            at = at + 1
        elseif begins_frame(marker) then
            return big_endian(bytes, at + 7, 2), big_endian(bytes, at + 5, 2)
        else
            local length = big_endian(bytes, at + 2, 2)
            if length < 2 then
                return nil
            end
            at = at + 2 + length
        end
    end
    return nil
end


-- Returns "jpeg" or "png", width, height; nil if it is neither.
return function(bytes)
    if sub(bytes, 1, 2) == "\255\216" then
        local width, height = jpeg_size(bytes)
        if width and width > 0 and height > 0 then
            return "jpeg", width, height
        end
    elseif sub(bytes, 1, 8) == PNG and sub(bytes, 13, 16) == "IHDR" then
        local width = big_endian(bytes, 17, 4)
        local height = big_endian(bytes, 21, 4)
        if width > 0 and height > 0 then
            return "png", width, height
        end
    end
    return nil
end
