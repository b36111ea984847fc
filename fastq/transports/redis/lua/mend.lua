-- Put right the entries of a queue's keys that belong to nobody, one step. Drops no message.
--
-- KEYS  1 leases, 2 idle, 3 levels, 4 dead, 5 dead:messages, 6 to 15 ready lists of levels 0 to 9
-- ARGV  1 how long dead letters are kept (s), 2 prefix of the wake channels,
--       3.. names of dead letters to be looked at, at most 1,000
-- Returns  {levels noted, levels taken out, idle entries taken out, dead letters shown again, entries of dead letters taken out}
--
-- include: baton
local leases, idle, levels, dead, records, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], 6
local noted, emptied, gone, shown, dropped = 0, 0, 0, 0, 0
local filled = {}
for level = 0, 9 do
  filled[tostring(level)] = redis.call('LLEN', KEYS[READY + level]) > 0
end
redis.call('ZCARD', leases)
redis.call('ZCARD', dead)
redis.call('HLEN', records)
local registered = redis.call('ZRANGE', idle, 0, -1)
local known = redis.call('SMEMBERS', levels)

for _, level in ipairs(known) do
  if level == '0' or not filled[level] then
    emptied = emptied + redis.call('SREM', levels, level)
  end
end
for _, process in ipairs(registered) do
  if not redis.call('ZSCORE', leases, process) then
    gone = gone + redis.call('ZREM', idle, process)
  end
end
for level = 1, 9 do
  if filled[tostring(level)] then
    noted = noted + redis.call('SADD', levels, level)
  end
end
for i = 3, #ARGV do
  local record, score = redis.call('HGET', records, ARGV[i]), redis.call('ZSCORE', dead, ARGV[i])
  if record and not score then
    -- A record begins with when it died (ms); the score is in us.
    redis.call('ZADD', dead, (string.match(record, '^%d+') or '0') .. '000', ARGV[i])
    redis.call('EXPIRE', dead, ARGV[1])
    shown = shown + 1
  elseif score and not record then
    dropped = dropped + redis.call('ZREM', dead, ARGV[i])
  end
end
if noted > 0 then
  baton(idle, ARGV[2], levels, READY)
end
return {noted, emptied, gone, shown, dropped}
