-- What wrk is to send for measure.sh: ordinary requests, in turn, below the
-- path that is its first argument.

-- luacheck: globals wrk init request

local requests, number = {}, 0


function init(args)
    local path = args[1] or "/"
    local agent = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 "
                  .. "Firefox/128.0"
    local usual = {
        ["Host"] = "www.shop.example",
        ["User-Agent"] = agent,
        ["Accept"] = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8",
        ["Accept-Language"] = "en-US,en;q=0.5",
        ["Cookie"] = "session=a8f5f167f44f4964e6c998dee827110c; theme=dark",
        ["Referer"] = "https://www.shop.example/products?page=2",
    }
    local form, json = {}, {}
    for name, value in pairs(usual) do
        form[name], json[name] = value, value
    end
    form["Content-Type"] = "application/x-www-form-urlencoded"
    json["Content-Type"] = "application/json"

    local sentence = "The quick brown fox jumps over the lazy dog. "
    requests = {
        wrk.format("GET", path .. "products/2024/summer-dresses", usual),
        wrk.format("GET", path .. "search?q=red+shoes&page=2&sort=price",
                   usual),
        wrk.format("POST", path .. "comments", form,
                   "rating=4&text=" .. sentence:rep(20):gsub(" ", "+")),
        wrk.format("POST", path .. "orders", json,
                   '{"customer":{"name":"Ada O\'Neil"},"items":[{"sku":"A-17",'
                   .. '"quantity":2}],"note":"' .. sentence:rep(5) .. '"}'),
    }
end


function request()
    number = number % #requests + 1
    return requests[number]
end
