-- Write how a job stands into the index. What is known of a newer attempt, or of a later status of this one, stays.
-- KEYS[1] all   KEYS[2] what is known of each   KEYS[3] those who run, by when they will be stuck unless they are heard of
-- KEYS[4] those whose time here may be over, by when   KEYS[5...] the job's owner, tags and root
-- ARGV[1] its id   ARGV[2] the fence   ARGV[3] the status' number   ARGV[4] created, ms   ARGV[5] left, ms
-- ARGV[6] the latest end of its record, ms   ARGV[7] last heard of, ms, or '' for now   ARGV[8] ms until it is stuck
-- ARGV[9] its labels   ARGV[10] how many make a lot
-- returns {its labels of before, finished, unfinished}: of others whose time is over, {id, known, ...}, when they are a lot
-- include: now
local BAND, DAY = 2 ^ 44, 86400000
local now = math.floor(now_us / 1000)
local all, infos, alive, expiring = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, fence, status = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local function ms(number)
  return string.format('%.0f', number)
end

local known, labels = redis.call('HGET', infos, id), nil
if known then
  local of
  of, labels = string.match(known, '^(%d+) %d+ %d+ (.*)$')
  local was = math.floor((redis.call('ZSCORE', all, id) or 0) / BAND)
  if tonumber(of) > fence or (tonumber(of) == fence and was > status) then
    return { '', {}, {} }
  end
end
local running, unfinished = status == 1, status <= 2
local left = math.min(tonumber(ARGV[5]), ARGV[6] - now)
-- A record that has not ended may be written to for long before the index hears of it again; lost, it is kept a day.
local life = math.max(1, unfinished and ARGV[6] - now + DAY or left)
local heard = ARGV[7] == '' and ms(now) or ARGV[7]
local score = ms(status * BAND + ARGV[4])
redis.call('ZADD', all, score, id)
redis.call('HSET', infos, id, ARGV[2] .. ' ' .. heard .. ' ' .. ARGV[4] .. ' ' .. ARGV[9])
if running then
  redis.call('ZADD', alive, ms(heard + ARGV[8]), id)
else
  redis.call('ZREM', alive, id)
end
redis.call('ZADD', expiring, ms((unfinished and BAND or 0) + now + left), id)
for i, key in ipairs(KEYS) do
  if i > 4 then
    redis.call('ZADD', key, score, id)
  end
  if redis.call('PTTL', key) < life then
    redis.call('PEXPIRE', key, ms(life))
  end
end

-- Others are only told of in lots: what it takes to look after them is then shared by as many writes.
local lot = tonumber(ARGV[10])
local finished = redis.call('ZRANGEBYSCORE', expiring, 0, now, 'LIMIT', 0, lot)
local open = redis.call('ZRANGEBYSCORE', expiring, ms(BAND), ms(BAND + now), 'LIMIT', 0, lot)
local function told(ids)
  local found = {}
  for _, each in ipairs(ids) do
    found[#found + 1], found[#found + 2] = each, redis.call('HGET', infos, each)
  end
  return found
end
local enough = #finished + #open >= lot
return { labels ~= ARGV[9] and labels or '', enough and told(finished) or {}, enough and told(open) or {} }
