-- The window: never more than N in any T.
--
-- A rate's window is a header and records `last, count`. Up to N = M every admission is a record of its own; above, it
-- joins the newest record while that counts less than N/M and spans less than 3T/M: so records are the finer the denser
-- the admissions, and at most M + M/3 remember any number. (Refunds and debts make room for more of them than N: from M
-- records on the span alone decides.) A record leaves T after its `last`, the time of its latest admission: never early.
-- Times are offsets from `base` in quanta of ceil(T/2^31) us, rounded up.
local PLACE = 310 -- bytes of M records
local HEAD = '<I7I7I4BB' -- base, sum of the counts, first admission in the newest record, bytes of a count, records

local function quantum(period)
  return math.ceil(period / 2147483648)
end

-- How long this rate must wait (nil: until something is answered), after what has left the window was dropped.
local function room(w)
  w.q, w.used, w.n = quantum(w.period), 0, 0
  local q, edge, record, offset, count, behind = w.q, 0, '', 0, 0, 0
  if not w.fresh then
    w.base, w.used, w.first, w.width, w.n, w.at = struct.unpack(HEAD, state, w.at)
    w.size, record = 4 + w.width, '<I4I' .. w.width
    w.last = struct.unpack('<I4', state, w.stop - w.size + 1)
    if w.base + w.last * q > now_us + q then
      w.base, moved = now_us + q - 1 - w.last * q, true -- it may have been rounded up by as much
    end
    edge = now_us - w.period - w.base
    offset, count, behind = struct.unpack(record, state, w.at)
    while offset * q <= edge do
      w.used, w.n, w.at = w.used - count, w.n - 1, behind
      if w.n == 0 then
        break
      end
      offset, count, behind = struct.unpack(record, state, w.at)
    end
  end
  w.used = w.n > 0 and w.used or 0
  local over, wait = w.used + held(w) - w.limit + w.cost, 0 -- in an order that is exact up to 2^53
  for k = 1, over > 0 and w.n or 0 do
    over, wait = over - count, offset * q - edge
    if over <= 0 then
      return wait
    end
    if k < w.n then
      offset, count, behind = struct.unpack(record, state, behind)
    end
  end
  if over <= 0 then
    return 0
  end
  return until_late(w, over, wait)
end

local function records(w)
  w.records = w.records or w.n > 0 and string.sub(state, w.at, w.stop) or ''
  return w.records
end

local function repack(w, width)
  local shift, at, out = struct.unpack('<I4', w.records), 1, {}
  for k = 1, w.n do
    local offset, count, behind = struct.unpack('<I4I' .. w.width, w.records, at)
    out[k] = struct.pack('<I4I' .. width, offset - shift, count)
    at = behind
  end
  w.base, w.last, w.first = w.base + shift * w.q, w.last - shift, math.max(0, w.first - shift)
  w.width, w.size, w.records = width, 4 + width, table.concat(out)
end

local function charge(w, amount)
  amount = math.min(amount, 2 ^ 53 - w.used) -- the largest sum that is exact
  local most = math.max(w.limit, w.used + amount)
  local width = most < 256 and 1 or most < 65536 and 2 or most < 4294967296 and 4 or 7
  records(w)
  if w.n == 0 then
    w.base, w.last, w.width, w.size = now_us, 0, width, 4 + width
  elseif w.width < width or now_us - w.base >= 4294967295 * w.q then
    repack(w, math.max(width, w.width))
  end
  -- After a step back of less than a quantum the newest record may still be ahead; order is kept.
  local offset, record, count = math.max(w.last, math.ceil((now_us - w.base) / w.q)), '<I4I' .. w.width, amount
  local places, _, before = math.floor(PLACE / w.size)
  if w.n > 0 and now_us - w.base - w.first * w.q < 3 * w.period / places then
    _, before = struct.unpack(record, w.records, #w.records - w.size + 1)
  end
  if before and (w.n >= places or before < w.limit / places) then
    count, w.records = count + before, string.sub(w.records, 1, -w.size - 1)
  else
    w.first, w.n = offset, w.n + 1
  end
  w.last, w.used = offset, w.used + amount
  w.records = w.records .. struct.pack(record, offset, count)
end

-- Takes `amount` out of the record that holds a charge of the time `stamp`, and of no other: a refund to the newest would
-- let the oldest's share through twice. What began after `stamp` (a reset, a loss) holds nothing of it, and what is T
-- old has left: the oldest that is still there may be another's.
local function refund(w, stamp, amount)
  if w.n == 0 or stamp < w.base or stamp > now_us or stamp + w.period <= now_us then
    return
  end
  local at, record = 1, '<I4I' .. w.width
  for _ = 1, w.n do
    local offset, count, behind = struct.unpack(record, records(w), at)
    if w.base + offset * w.q >= stamp then
      local back = math.min(amount, count)
      w.used = w.used - back
      w.records = string.sub(w.records, 1, at - 1)
        .. struct.pack(record, offset, count - back)
        .. string.sub(w.records, behind)
      return
    end
    at = behind
  end
end

local function packed(w)
  if w.n == 0 then
    return nil
  end
  w.ends = w.base + w.last * w.q + w.period
  return struct.pack(HEAD, w.base, w.used, w.first, w.width, w.n), records(w)
end

local function left(w)
  return w.limit - w.used - held(w)
end

local function resets(w)
  return w.n > 0 and w.base + w.last * w.q + w.period - now_us or 0
end
