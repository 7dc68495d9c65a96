-- What a limiter decided, and the keys that it was asked for most in this clock hour and the one before: of those that
-- were admitted or refused most in one of the two. Changes nothing.
-- KEYS[1] the totals   KEYS[2] the bucket of even hours   KEYS[3] the bucket of odd ones (see tally)
-- ARGV[1] how many keys
-- returns {admitted, refused, unseen, key, admitted, refused, ...}
local most = tonumber(ARGV[1])
local function count(bucket, member)
  return tonumber(redis.call('ZSCORE', bucket, member) or 0)
end
local found, seen = {}, {}
for i = 2, 3 do
  for _, member in ipairs(redis.call('ZREVRANGE', KEYS[i], 0, 4 * most - 1)) do
    local key = string.sub(member, 2)
    if not seen[key] then
      seen[key] = true
      local admitted = count(KEYS[2], '+' .. key) + count(KEYS[3], '+' .. key)
      local refused = count(KEYS[2], '-' .. key) + count(KEYS[3], '-' .. key)
      found[#found + 1] = { key, admitted, refused }
    end
  end
end
table.sort(found, function(one, other)
  local a, b = one[2] + one[3], other[2] + other[3]
  return a > b or a == b and one[1] < other[1]
end)
local reply = {}
for i, count in ipairs(redis.call('HMGET', KEYS[1], 'admitted', 'refused', 'unseen')) do
  reply[i] = tonumber(count or 0)
end
for i = 1, math.min(most, #found) do
  for j = 1, 3 do
    reply[#reply + 1] = found[i][j]
  end
end
return reply
