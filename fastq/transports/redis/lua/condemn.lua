-- Condemn processes in one queue whose lease still has the value that was seen. A score of 0 marks them; renewals leave it.
--
-- KEYS  1 leases
-- ARGV  per process: name, value seen ('': condemn it whatever the value, its own node knows that it is dead)
-- Returns  {process, ...}: condemned now or before
local condemned = {}
for i = 1, #ARGV, 2 do
  local process, value = ARGV[i], ARGV[i + 1]
  local lease = redis.call('ZSCORE', KEYS[1], process)
  if lease == '0' then
    condemned[#condemned + 1] = process
  elseif value == '' or lease == value then
    -- Out of memory refuses ZADD as a first write, so it comes second.
    redis.call('ZREM', KEYS[1], '')
    redis.call('ZADD', KEYS[1], 0, process)
    condemned[#condemned + 1] = process
  end
end
return condemned
