-- Drop a queue's ready and delayed messages.
--
-- KEYS  1 delayed, 2 levels, 3 to 12 ready lists of levels 0 to 9
-- ARGV  none
-- Returns  how many were dropped
local dropped = redis.call('ZCARD', KEYS[1])
for level = 0, 9 do
  dropped = dropped + redis.call('LLEN', KEYS[3 + level])
end
redis.call('UNLINK', unpack(KEYS))
return dropped
