-- Items a second: an exponentially weighted moving average over times that are not regular (Eckner 2012), of tau = 30 s.
-- Of a span below 0.1 s nothing is learned; what goes back begins anew.
local function rate(done)
  local before, at, old = unpack(redis.call('HMGET', KEYS[1], 'rated_done', 'rated', 'rate'))
  local span = (now_us - (at or now_us)) / 1e6
  local count = done - (before or done)
  if not at or count < 0 then
    redis.call('HDEL', KEYS[1], 'rate')
  elseif span < 0.1 or count == 0 then
    return {}
  else
    local seen = count / span
    old = old and old + (1 - math.exp(-span / 30)) * (seen - old) or seen
    redis.call('HSET', KEYS[1], 'rate', string.format('%.17g', old))
  end
  return { 'rated', string.format('%.0f', now_us), 'rated_done', string.format('%.0f', done) }
end
