-- The load of `make load` and `make bench`: the requests of a file, one after the other; it prints the result as one line of JSON.
-- The file has one request behind the other (see benchmarks/visitors.py). In a request \1 becomes a number that is used
-- once, and \2 an IPv4 address made of that number.
local requests, is_template, sent = {}, false, 0

function init(arguments)
   local text = assert(io.open(arguments[1], "rb")):read("*a")
   for request in text:gmatch("GET .-\r\n\r\n") do
      requests[#requests + 1] = request
   end
   is_template = requests[1]:find("[\1\2]") ~= nil
end

function request()
   sent = sent + 1
   local text = requests[(sent - 1) % #requests + 1]
   if not is_template then
      return text
   end
   local number = 100000000 + sent
   local address = string.format("9.%d.%d.%d", sent / 65536 % 256, sent / 256 % 256, sent % 256)
   return (text:gsub("[\1\2]", { ["\1"] = number, ["\2"] = address }))
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '{"requests":%d,"seconds":%.6f,"p50":%.6f,"p99":%.6f,"max":%.6f,"refused":%d,"broken":%d}\n',
      summary.requests, summary.duration / 1e6,
      latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, latency.max / 1e6,
      errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
