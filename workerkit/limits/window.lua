-- The window: never more than N in any T. Decides all rates of one limiter key, its cap and its pause in one go.
--
-- A rate's window is a header and records `last, count`. Up to N = 32 every admission is a record of its own; above, it
-- joins the newest record while that spans less than T/32, so about 33 records remember any number. A record leaves T
-- after its `last`, the time of its latest admission: never early. Times are offsets from `base` in quanta of
-- ceil(T/2^31) us, rounded up. Every rate is checked before anything is written, and a refusal writes nothing; only a
-- server clock that was set back (the newest record lies in the future) must be written down whatever the answer, or
-- waiting would never help.
--
-- KEYS: the windows, packed; the pause; with a cap the leases, a sorted set of owners by the server time (us) of expiry.
-- ARGV: not after; 1 to take, 0 to look; cap (0: none); lease in us; owner; then per rate its T in us, N, cost (<= N).
-- Returns allowed, remaining, wait in us, us until all is free again, what refused (n: the nth rate, 0: the cap,
-- -1: the pause), server time in us.

-- include: not_after
local HEAD = '<I7i7I7I4BB' -- T, base, sum of the counts, first admission in the newest record, bytes of a count, records
local taking, cap, lease, owner = ARGV[2] == '1', tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local stored = redis.call('MGET', KEYS[1], KEYS[2])
local state = stored[1] or ''

local function quantum(period)
  return math.ceil(period / 2147483648)
end

local function newest(w)
  return (struct.unpack('<I4', state, w.stop - w.size + 1))
end

local windows, at = {}, 1
while at <= #state do
  local w = { start = at }
  w.period, w.base, w.used, w.first, w.width, w.n, w.at = struct.unpack(HEAD, state, at)
  w.size = 4 + w.width
  at = w.at + w.n * w.size
  w.stop = at - 1
  windows[w.period] = w
end

local moved = false
-- Drops what has left the window and answers how long its rate must wait.
local function checked(w)
  local q = w.q
  w.last = newest(w)
  if w.base + w.last * q > now_us + q then
    w.base, moved = now_us + q - 1 - w.last * q, true -- it may have been rounded up by as much
  end
  local edge, record = now_us - w.period - w.base, '<I4I' .. w.width
  local offset, count, behind = struct.unpack(record, state, w.at)
  while offset * q <= edge do
    w.used, w.n, w.at = w.used - count, w.n - 1, behind
    if w.n == 0 then
      return 0
    end
    offset, count, behind = struct.unpack(record, state, w.at)
  end
  local over = w.used + w.cost - w.limit
  if over <= 0 then
    return 0
  end
  while over > count do
    over = over - count
    offset, count, behind = struct.unpack(record, state, behind)
  end
  return offset * q - edge
end

local mine, wait, bound = {}, 0, 0
for i = 6, #ARGV - 2, 3 do
  local period = tonumber(ARGV[i])
  local w = windows[period] or { period = period, used = 0, first = 0, n = 0, at = 1, stop = 0 }
  w.limit, w.cost, w.q = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), quantum(period)
  mine[#mine + 1] = w
  local needed = w.n > 0 and checked(w) or 0
  if needed > wait then
    wait, bound = needed, #mine
  end
end
if stored[2] then
  local needed = (redis.call('PTTL', KEYS[2]) + 1) * 1000
  if needed > wait then
    wait, bound = needed, -1
  end
end
local free, full = 0, false
if cap > 0 then
  free = cap - redis.call('ZCOUNT', KEYS[3], string.format('(%.0f', now_us), '+inf')
  local ends = free < 1 and tonumber(redis.call('ZSCORE', KEYS[3], owner) or 0)
  full = ends and ends <= now_us
end
local allowed = wait == 0 and not full

local function repacked(w, records, width)
  local shift, at, out = struct.unpack('<I4', records), 1, {}
  for k = 1, w.n do
    local offset, count, behind = struct.unpack('<I4I' .. w.width, records, at)
    out[k] = struct.pack('<I4I' .. width, offset - shift, count)
    at = behind
  end
  w.base, w.last, w.first = w.base + shift * w.q, w.last - shift, math.max(0, w.first - shift)
  w.width, w.size = width, 4 + width
  return table.concat(out)
end

local function charged(w, records)
  local width = w.limit < 256 and 1 or w.limit < 65536 and 2 or w.limit < 4294967296 and 4 or 7
  if w.n == 0 then
    w.base, w.last, w.width, w.size = now_us, 0, width, 4 + width
  elseif w.width < width or now_us - w.base >= 4294967295 * w.q then
    records = repacked(w, records, math.max(width, w.width))
  end
  -- After a step back of less than a quantum the newest record may still be ahead; order is kept.
  local offset, record, count = math.max(w.last, math.ceil((now_us - w.base) / w.q)), '<I4I' .. w.width, w.cost
  local joins = w.limit > 32 and now_us - w.base - w.first * w.q < w.period / 32
  if w.n > 0 and joins then
    local _, before = struct.unpack(record, records, #records - w.size + 1)
    count, records = count + before, string.sub(records, 1, -w.size - 1)
  else
    w.first, w.n = offset, w.n + 1
  end
  w.last, w.used = offset, w.used + w.cost
  return records .. struct.pack(record, offset, count)
end

if taking and (allowed or moved) then
  local parts, longest = {}, 0
  for _, w in ipairs(mine) do
    local records = string.sub(state, w.at, w.stop)
    if allowed then
      records = charged(w, records)
    end
    if w.n > 0 then
      parts[#parts + 1] = struct.pack(HEAD, w.period, w.base, w.used, w.first, w.width, w.n) .. records
      longest = math.max(longest, w.period)
    end
  end
  for period, w in pairs(windows) do
    -- A rate of another definition, that older or newer processes may still have: theirs to count, not ours to forget.
    if not w.limit and w.base + newest(w) * quantum(period) + period > now_us then
      parts[#parts + 1] = string.sub(state, w.start, w.stop)
      longest = math.max(longest, period)
    end
  end
  if #parts > 0 then
    redis.call('SET', KEYS[1], table.concat(parts), 'PX', math.floor(longest / 1000) + 1000)
  end
end
-- Four leases long: a process whose definition says a longer lease may hold one in the same set.
if taking and allowed and cap > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now_us)
  redis.call('ZADD', KEYS[3], now_us + lease, owner)
  redis.call('PEXPIRE', KEYS[3], math.ceil(lease / 250))
elseif taking and full then
  -- No lease ends later than now + lease unless the clock was set back: then the dead would hold on for that long.
  for _, held in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], string.format('(%.0f', now_us + lease), '+inf')) do
    redis.call('ZADD', KEYS[3], now_us + lease, held)
  end
end

local remaining, reset
for _, w in ipairs(mine) do
  remaining = math.min(remaining or w.limit, w.limit - w.used)
  if w.n > 0 then
    reset = math.max(reset or 0, w.base + w.last * w.q + w.period - now_us)
  end
end
remaining = remaining or free - (taking and allowed and 1 or 0)
return { allowed and 1 or 0, math.max(0, remaining), wait, reset or 0, bound, now_us }
