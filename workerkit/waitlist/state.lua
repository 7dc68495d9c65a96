-- What every script of the waitlist works on, by the order of its KEYS; those from `line` on only where one line is meant.
--
-- tickets: id -> message        infos: id -> what is known of it, see below     ids: task id -> id
-- due: line -> when to look at it again                   lines: line -> what it waits for, while somebody waits in it
-- out: id -> when to publish it again                     expiring: id -> when it expires, 0 when it is cancelled
-- quarantine: id -> why it is not published any more
-- line: `turn` (before it nobody goes), `pace` (when the next one goes at the limit's rate), us between two turns
-- (`every`), `lag` of its queue, whether one of this backlog has `returned` by it, since when the limit is `unused`, and
-- the score that was served last in each priority (v0..v9)
-- waiting: id -> score         flights: id -> when it was published     tags: priority and group -> the score of its next
-- record: a task's generation and the publication that entered; since when it waits, its score, and in which line
local tickets, infos, ids, due, lines, out, expiring, quarantine = unpack(KEYS, 1, 8)
local line, waiting, flights, tags, record = unpack(KEYS, 9, 13)

local function us(number)
  return string.format('%.0f', number)
end

local INFO = '^(%S+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d) (%S+) (%S+)$'

local function info_of(id)
  local text = redis.call('HGET', infos, id)
  if not text then
    return nil
  end
  local i = {}
  i.line, i.generation, i.since, i.expires, i.score, i.every, i.sent, i.at, i.cancelled, i.task, i.task_id =
    string.match(text, INFO)
  i.every, i.sent, i.at = tonumber(i.every), tonumber(i.sent), tonumber(i.at)
  return i
end

local function note(id, i)
  redis.call('HSET', infos, id, table.concat({ i.line, i.generation, i.since, i.expires, i.score, us(i.every), i.sent,
    us(i.at), i.cancelled, i.task, i.task_id }, ' '))
end

-- A ticket that is published stays, to be published again if nobody enters by it; later each time, and later than its
-- queue has been seen to lag. One that was entered stays until it was let go on: longer than a message that goes back to
-- its broker meanwhile takes to return.
local AGAIN, ENTERED, LATEST = 10000000, 30000000, 3600000000
local function published(id, i, lag)
  i.sent, i.at = i.sent + 1, now_us
  note(id, i)
  redis.call('ZADD', out, us(now_us + math.min(math.max(AGAIN, 2 * lag) * 2 ^ (i.sent - 1), LATEST)), id)
end

local function forget(id, i)
  redis.call('HDEL', tickets, id)
  redis.call('HDEL', infos, id)
  redis.call('ZREM', out, id)
  redis.call('ZREM', expiring, id)
  redis.call('HDEL', quarantine, id)
  if redis.call('HGET', ids, i.task_id) == id then
    redis.call('HDEL', ids, i.task_id)
  end
  if waiting then
    redis.call('ZREM', waiting, id)
    redis.call('ZREM', flights, id)
  end
end

-- Every key of the list lives until this long after the last worker has looked at it.
local LIFE = 30 * 86400000
local function keep_all()
  for i = 1, 8 do
    redis.call('PEXPIRE', KEYS[i], LIFE)
  end
end
