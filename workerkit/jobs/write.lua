-- One fenced write. Everything is checked first: a refusal changes nothing.
-- KEYS[1] the record   KEYS[2] its events
-- ARGV[1] not after   ARGV[2] the fence   ARGV[3] ttl in ms   ARGV[4] the new status, or ''
-- ARGV[5] the number of a batch, or 0: a batch that is written already is not written again
-- ARGV[6] the version that the record must have, or '' for any
-- ARGV[7] how many pairs name, value to set; after them counters: name, kind (i or f), amount
-- returns 0 | 1 the job was asked to cancel | 'MISSING' | 'FENCED' | 'FINISHED' | 'VERSION' | 'COUNTER' .. name
-- include: not_after
-- include: event
-- include: rate
local key = KEYS[1]
local fence, ended, status, batch, expires, cancel, version =
  unpack(redis.call('HMGET', key, 'fence', 'ended', 'status', 'batch', 'expires', 'cancel', 'version'))
if not fence then
  return 'MISSING'
end
if fence ~= ARGV[2] then
  return 'FENCED'
end
if status == ARGV[4] then
  return 0 -- the same end again
end
if ended then
  return 'FINISHED'
end
if ARGV[6] ~= '' and ARGV[6] ~= version then
  return 'VERSION'
end
local number = tonumber(ARGV[5])
local now = string.format('%.0f', now_us)
local sets = {'heartbeat', now}
local done, told, names, kind = nil, {}, {}, 'changed'
local function set(name, value)
  sets[#sets + 1], sets[#sets + 2] = name, value
  if string.sub(name, 1, 1) == ':' then
    names[#names + 1] = string.sub(name, 2)
  elseif name ~= 'cursor' and name ~= 'trace' then
    kind = name == 'status' and kind or 'progress'
    told[#told + 1], told[#told + 2] = name, value
  end
  done = name == 'done' and value or done
end
if number == 0 or number > tonumber(batch) then
  local pairs_end = 7 + 2 * ARGV[7]
  for i = 8, pairs_end, 2 do
    set(ARGV[i], ARGV[i + 1])
  end
  for i = pairs_end + 1, #ARGV, 3 do
    local old = tonumber(redis.call('HGET', key, ARGV[i]) or '0')
    local sum = old and old + ARGV[i + 2]
    local whole = ARGV[i + 1] == 'i'
    if not sum or not (math.abs(sum) <= (whole and 9007199254740991 or 1.7976931348623157e308)) then
      return 'COUNTER' .. ARGV[i]
    end
    set(ARGV[i], string.format(whole and '%.0f' or '%.17g', sum))
  end
  if number > 0 then
    sets[#sets + 1] = 'batch'
    sets[#sets + 1] = ARGV[5]
  end
end
if ARGV[4] ~= '' then
  set('status', ARGV[4])
  kind = 'again'
  if ARGV[4] == 'SUCCESS' or ARGV[4] == 'FAILURE' or ARGV[4] == 'CANCELLED' then
    sets[#sets + 1], sets[#sets + 2], kind = 'ended', now, 'ended'
  end
  if ARGV[4] == 'SUCCESS' then
    redis.call('HDEL', key, 'error', 'reason', 'trace')
  end
end
if done then
  redis.call('HDEL', key, 'crashes') -- it gets further
end
for _, word in ipairs(done and rate(done) or {}) do
  sets[#sets + 1] = word
end
if #sets > 2 then
  redis.call('HINCRBY', key, 'version', 1)
  if #names > 0 then
    told[#told + 1], told[#told + 2] = 'fields', table.concat(names, ',')
  end
  event(kind, told)
end
redis.call('HSET', key, unpack(sets))
live(ARGV[3], expires)
return cancel and 1 or 0
