-- Open joins of one queue, once, ahead of the messages of a publish call. They expire until that call seals them.
--
-- KEYS  1 from:<producer>, 2.. joins
-- ARGV  1 sequence: rises with every call of this producer, 2 its predecessor if that must have been kept ('' if not),
--       3 how long the sequence is remembered (s), 4 how long an unsealed join lives (s),
--       then per join: how many members, then level, delay (ms), due at (Unix ms) and message of its body
-- Returns  server's clock (Unix ms), or -1: the predecessor was not kept, so nothing was done
--
-- HSET is the first write, so a server out of memory refuses the call as a whole (OOM).
-- include: clock
-- include: open
local sequence = tonumber(ARGV[1])
local last = tonumber(redis.call('GET', KEYS[1]) or -1)
if last >= sequence then
  -- A repeat after a lost reply. The joins may have ended since: they are not opened again.
  return clock()
end
if ARGV[2] ~= '' and last ~= tonumber(ARGV[2]) then
  return -1
end
local there = {}
for i = 2, #KEYS do
  there[i] = redis.call('HLEN', KEYS[i]) > 0
end
for i = 2, #KEYS do
  if not there[i] then
    open_join(KEYS[i], 5 * i - 5)
    redis.call('HSET', KEYS[i], 'unsealed', 1)
    redis.call('EXPIRE', KEYS[i], ARGV[4])
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
return clock()
