-- Enter or renew the leases of one node's processes in a queue; promote what is due, pass the baton (the safety net for lost wakes), and drop
-- dead letters whose time is over.
--
-- KEYS  1 leases, 2 idle, 3 delayed, 4 levels, 5 to 14 ready lists of levels 0 to 9, 15 dead, 16 dead:messages
-- ARGV  1 lease (ms), 2 prefix of the wake channels, 3 most dead letters kept, 4 how long they are kept (s), 5.. per process: '+' (enter it if it is missing) or '=' (renew it if it is there)
--       in front of its name
-- Returns  {clock (ms), process, value, process, value, ...}: leases not renewed for half a lease, at most 100, condemned ones first (value "0")
--
-- A missing entry is not entered twice: a frozen node's process, condemned and released by another node, must find itself fenced
-- when the node thaws and renews. ZREM is the first write: it is allowed when Redis is out of memory.
-- include: clock
-- include: promote
-- include: baton
-- include: unbury
local leases, idle, delayed, levels, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], 5
local now = clock()
redis.call('ZREM', idle, '')
for i = 5, #ARGV do
  local process = string.sub(ARGV[i], 2)
  local lease = redis.call('ZSCORE', leases, process)
  if lease ~= '0' and (lease or string.sub(ARGV[i], 1, 1) == '+') then
    redis.call('ZADD', leases, now, process)
  end
end
local due = promote(delayed, levels, READY, now)
baton(idle, ARGV[2], levels, READY)
if due > 0 then
  -- A timekeeper that died leaves the next due time uncovered.
  local keeper = redis.call('ZRANGE', idle, 0, 0, 'WITHSCORES')
  if keeper[2] and tonumber(keeper[2]) > due then
    wake(idle, ARGV[2], 1)
  end
end
trim(KEYS[15], KEYS[16], now, tonumber(ARGV[3]), tonumber(ARGV[4]), 0)
local reply = {now}
for _, item in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now - tonumber(ARGV[1]) / 2, 'WITHSCORES', 'LIMIT', 0, 100)) do
  reply[#reply + 1] = item
end
return reply
