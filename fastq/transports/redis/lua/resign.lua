-- Give up the lead of a timetable, and tell those that wait.
--
-- KEYS  1 leader
-- ARGV  1 name of the beat, 2 the channel that beats listen to
-- Returns  1 if it led
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], 'r')
return 1
