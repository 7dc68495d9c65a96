-- Fixed windows: at most N in each of the clock's windows of T (those that begin at a multiple of T since 1970), so up
-- to 2N around a boundary. For matching who counts so.
local HEAD = '<I7I7I7' -- which window, what was used in it, since when it is known

local function room(w)
  w.index, w.used, w.since = math.floor(now_us / w.period), 0, now_us
  if not w.fresh then
    local index, used, since = struct.unpack(HEAD, state, w.at)
    moved = moved or index > w.index
    if index >= w.index then
      w.used, w.since = used, math.min(since, now_us)
    end
  end
  if w.used - w.limit + w.cost <= 0 then -- in an order that is exact up to 2^53
    return 0
  end
  return (w.index + 1) * w.period - now_us
end

local function charge(w, amount)
  w.used = math.min(w.used + amount, 2 ^ 53)
end

-- What began after `stamp` (a reset, a loss) holds nothing of it.
local function refund(w, stamp, amount)
  if stamp >= w.since and math.floor(stamp / w.period) == w.index then
    w.used = math.max(0, w.used - amount)
  end
end

local function packed(w)
  if w.used <= 0 then
    return nil
  end
  w.ends = (w.index + 1) * w.period
  return struct.pack(HEAD, w.index, w.used, w.since), ''
end

local function left(w)
  return w.limit - w.used
end

local function resets(w)
  return w.used > 0 and (w.index + 1) * w.period - now_us or 0
end
