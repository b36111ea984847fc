-- Move leased messages of a condemned process back to the head of their levels: one bounded step.
--
-- KEYS  1 leased:<process>, 2 leases, 3 idle, 4 levels, 5 to 14 ready lists of levels 0 to 9
-- ARGV  1 process, 2 prefix of the wake channels, 3 '1': remove lease, hash and wake registration once nothing is left,
--       4.. per delivery, newest first: tag, message to put back or '' for the leased one
-- Returns  how many moved, or -1: the process is alive, nothing was done
--
-- A tag settled meanwhile stays settled. HDEL is the first write: it is allowed when Redis is out of memory.
-- include: push
-- include: heads
-- include: baton
local leased, leases, idle, levels, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], 5
local lease = redis.call('ZSCORE', leases, ARGV[1])
if lease and lease ~= '0' then
  return -1
end
local tags = {}
for i = 4, #ARGV, 2 do
  tags[#tags + 1] = ARGV[i]
end
local moved = 0
if #tags > 0 then
  local messages = redis.call('HMGET', leased, unpack(tags))
  for level = 0, 9 do
    redis.call('LLEN', KEYS[READY + level])
  end
  redis.call('HDEL', leased, unpack(tags))
  local back = {}
  for i, message in ipairs(messages) do
    if message then
      local marked = ARGV[2 * i + 3]
      to_head(back, string.sub(tags[i], 1, 1), marked ~= '' and marked or message)
      moved = moved + 1
    end
  end
  heads(back, READY, levels)
end
if ARGV[3] == '1' then
  local left = redis.call('HLEN', leased)
  if left == 0 or (left == 1 and redis.call('HEXISTS', leased, '#') == 1) then
    redis.call('DEL', leased)
    redis.call('ZREM', leases, ARGV[1])
    redis.call('ZREM', idle, ARGV[1])
  end
end
baton(idle, ARGV[2], levels, READY)
return moved
