-- What wrk sends, and how it tells what it saw:
-- wrk ... -s review.lua URL -- FILE [close], where `close` asks for a new connection for each request.

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  wrk.headers["Content-Type"] = "application/json"
  if args[2] == "close" then
    wrk.headers["Connection"] = "close"
  end
  file:close()
end

function done(summary, latency, _)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  -- Microseconds, except the counts.
  print(string.format("seen: p50=%d p99=%d requests=%d duration=%d failed=%d",
    latency:percentile(50), latency:percentile(99), summary.requests, summary.duration, failed))
end
