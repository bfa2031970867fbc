-- Texts of a request as the program behind would come to see them: encodings
-- undone, tricks of spelling evened out. All rules are matched against such
-- texts, so that they need not know the tricks.

local bit = require "bit"

local band = bit.band
local bor = bit.bor
local byte = string.byte
local char = string.char
local find = string.find
local gsub = string.gsub
local lower = string.lower
local lshift = bit.lshift
local rshift = bit.rshift
local tonumber = tonumber


local _M = {}


-- Text may be encoded several times over: it is decoded as often.
local MAX_ROUNDS = 3

local ENTITIES = {
    lt = "<", gt = ">", quot = '"', apos = "'", amp = "&", colon = ":",
    lpar = "(", rpar = ")", lbrace = "{", rbrace = "}", lcub = "{",
    rcub = "}", lsqb = "[", rsqb = "]", sol = "/", bsol = "\\",
    equals = "=", semi = ";", comma = ",", period = ".", excl = "!",
    num = "#", dollar = "$", percnt = "%", ast = "*", plus = "+",
    grave = "`", vert = "|", verbar = "|", newline = " ", tab = " ",
    nbsp = " ",
}


local function utf8(code)
    if code < 0x80 then
        return char(code)
    end
    if code < 0x800 then
        return char(bor(0xc0, rshift(code, 6)), bor(0x80, band(code, 0x3f)))
    end
    if code < 0x10000 then
        return char(bor(0xe0, rshift(code, 12)),
                    bor(0x80, band(rshift(code, 6), 0x3f)),
                    bor(0x80, band(code, 0x3f)))
    end
    return ""
end


local function from_hex(digits)
    return char(tonumber(digits, 16))
end


local function from_unicode(digits)
    return utf8(tonumber(digits, 16))
end


-- "%41", and "%u0041" as old servers of Microsoft's have it.
local function percent(text)
    text = gsub(text, "%%[uU](%x%x%x%x)", from_unicode)
    return (gsub(text, "%%(%x%x)", from_hex))
end
_M.percent = percent


local function decimal_entity(digits)
    local code = tonumber(digits)
    return code < 0x10000 and utf8(code) or ""
end


local function hex_entity(digits)
    local code = tonumber(digits, 16)
    return code < 0x10000 and utf8(code) or ""
end


local function named_entity(name)
    return ENTITIES[lower(name)]
end


local function entities(text)
    text = gsub(text, "&#(%d+);?", decimal_entity)
    text = gsub(text, "&#[xX](%x+);?", hex_entity)
    return (gsub(text, "&(%a+);", named_entity))
end


-- "\x41" and "\u0041" of JavaScript.
local function escapes(text)
    text = gsub(text, "\\[uU]{?(%x%x%x%x)}?", from_unicode)
    return (gsub(text, "\\[xX](%x%x)", from_hex))
end


-- What is no UTF-8, but was taken for ASCII by somebody: an overlong pair of
-- bytes.
local function overlong(first, second)
    return char(bor(lshift(band(byte(first), 1), 6),
                    band(byte(second), 0x3f)))
end


-- Full-width characters, U+FF01 to U+FF5E, which databases turn into ASCII.
local function full_width(second, third)
    local code = bor(lshift(band(byte(second), 0x3f), 6),
                     band(byte(third), 0x3f)) + 0xf000
    if code >= 0xff01 and code <= 0xff5e then
        return char(code - 0xfee0)
    end
end


-- The text with everything decoded, in lower case, with single blanks for
-- white space and for comments of SQL, and without NUL bytes. It has no
-- newline.
function _M.text(text)
    if not find(text, "[^%w_.,:;=@/-]") then
        return lower(text)
    end
    for _ = 1, MAX_ROUNDS do
        local before = text
        if find(text, "%", 1, true) then
            text = percent(text)
        end
        if find(text, "&", 1, true) then
            text = entities(text)
        end
        if find(text, "\\", 1, true) then
            text = escapes(text)
        end
        if text == before then
            break
        end
    end
    if find(text, "[\192\193\194\239]") then
        text = gsub(text, "([\192\193])([\128-\191])", overlong)
        text = gsub(text, "\239([\188\189])([\128-\191])", full_width)
        text = gsub(text, "\194\160", " ")
    end
    if find(text, "/*", 1, true) then
        -- MySQL runs what is in comments with an exclamation mark.
        text = gsub(text, "/%*!%d*(.-)%*/", " %1 ")
        text = gsub(text, "/%*.-%*/", " ")
    end
    text = gsub(text, "%z", "")
    return lower((gsub(text, "%s+", " ")))
end


-- A decoded text as a shell would read it: without what can be put into a
-- command and changes nothing.
function _M.shell(text)
    if not find(text, "['\"\\^$]") then
        return text
    end
    text = gsub(text, "['\"\\^]", "")
    text = gsub(text, "%$[@*]", "")
    text = gsub(text, "%${?ifs}?", " ")
    -- Not the newlines between texts.
    return (gsub(text, "  +", " "))
end


return _M
