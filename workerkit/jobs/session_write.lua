-- Use a session: its idle time begins anew, fields are set and deleted. A refusal changes nothing.
-- KEYS[1] the record
-- ARGV[1] the digest of its id   ARGV[2] the most bytes of data   ARGV[3] '1': answer the record
-- ARGV[4] how many pairs name, value to set; after them names to delete
-- returns {ms left, {name, value, ...}} | the bytes of data that are too many | nil when there is no such session
-- include: session_open
local left = open(ARGV[1])
if not left then
  return false
end
local function bytes(name)
  local value = redis.call('HSTRLEN', key, name)
  return value > 0 and #name + value or 0
end
local sets = 4 + 2 * ARGV[4]
if #ARGV > 4 then
  local size = tonumber(redis.call('HGET', key, 'size'))
  for i = 5, sets, 2 do
    size = size + #ARGV[i] + #ARGV[i + 1] - bytes(ARGV[i])
  end
  for i = sets + 1, #ARGV do
    size = size - bytes(ARGV[i])
  end
  if size > tonumber(ARGV[2]) then
    return size
  end
  redis.call('HSET', key, 'size', size)
end
for i = 5, sets, 2 do
  redis.call('HSET', key, ARGV[i], ARGV[i + 1])
end
for i = sets + 1, #ARGV do
  redis.call('HDEL', key, ARGV[i])
end
return {slide(left), ARGV[3] == '1' and redis.call('HGETALL', key) or {}}
