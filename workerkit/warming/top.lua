-- The calls that are asked for most.
-- KEYS[1] counts   KEYS[2] the calls' arguments; at '' when weights began
-- ARGV[1] how many   ARGV[2] the half-life in ms
-- returns {call, its faded count, its arguments | nil, ...}
-- include: now
local began = redis.call('HGET', KEYS[2], '')
if not began then
  return {}
end
local weight = 2 ^ ((now_us - began) / (ARGV[2] * 1000))
local found = redis.call('ZREVRANGE', KEYS[1], 0, ARGV[1] - 1, 'WITHSCORES')
local reply = {}
for i = 1, #found, 2 do
  reply[#reply + 1] = found[i]
  reply[#reply + 1] = string.format('%.17g', found[i + 1] / weight)
  reply[#reply + 1] = redis.call('HGET', KEYS[2], found[i])
end
return reply
