-- ARGV[1]: server time in microseconds after which the caller has given up: then nothing may be written any more.
-- include: now
if now_us > tonumber(ARGV[1]) then
  return redis.error_reply(string.format('LATE %.0f', now_us))
end
