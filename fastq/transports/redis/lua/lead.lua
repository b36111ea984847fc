-- Take the lead of a timetable if nobody has it, or keep it.
--
-- KEYS  1 leader, 2 edits
-- ARGV  1 name of the beat, 2 for how long (ms)
-- Returns  who leads, 1 if this beat has just taken it, for how long whoever leads has it (ms), number of the last edit, server's
--          clock (Unix ms)
-- include: clock
local now = clock()
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
local leader = redis.call('GET', KEYS[1])
local taken, left = 0, tonumber(ARGV[2])
if not leader then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  leader, taken = ARGV[1], 1
elseif leader == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
else
  left = redis.call('PTTL', KEYS[1])
end
return {leader, taken, left, last[2] or '0', now}
