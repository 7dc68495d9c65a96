-- A page of the index: newest first in each band of scores, all bands as of one moment.
-- KEYS[1] where to look   KEYS[2...] where a job must be, too
-- ARGV[1] how many of each band   ARGV[2], ARGV[3] those after this offset in the band, and id; or an offset to begin
-- with, '' for now, and ''   ARGV[4] how many to look at in each band   ARGV[5...] the numbers of the bands
-- returns {now, {id, offset, ...}, ...}, twice for each band: what was found; then where it stopped, {} at the end
-- include: now
local BAND = 2 ^ 44
local most, after, limit = tonumber(ARGV[1]), ARGV[3], tonumber(ARGV[4])
local from = tonumber(ARGV[2]) or math.floor(now_us / 1000)

-- By bytes, as Redis orders members: Lua's < goes by the server's locale.
local function below(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then
      return x < y
    end
  end
  return #a < #b
end

local function everywhere(id)
  for i = 2, #KEYS do
    if not redis.call('ZSCORE', KEYS[i], id) then
      return false
    end
  end
  return true
end

local function band(base)
  local found, at, looked = {}, 0, 0
  while true do
    local some = redis.call('ZREVRANGEBYSCORE', KEYS[1], base + from, base, 'WITHSCORES', 'LIMIT', at, most)
    for i = 1, #some, 2 do
      local id, offset = some[i], some[i + 1] - base
      if after == '' or offset < from or below(id, after) then
        looked = looked + 1
        if everywhere(id) then
          found[#found + 1], found[#found + 2] = id, offset
        end
        if #found == 2 * most or looked == limit then
          return found, { id, offset }
        end
      end
    end
    if #some < 2 * most then
      return found, {}
    end
    at = at + most
  end
end

local reply = { now_us }
for i = 5, #ARGV do
  reply[#reply + 1], reply[#reply + 2] = band(ARGV[i] * BAND)
end
return reply
