-- Reserve turns of a token bucket (GCRA, ITU-T I.371: the state is the time at which all turns taken so far are used up).
--
-- KEYS  1 rate:<bucket>
-- ARGV  1 how many turns, 2 time per turn (us)
-- Returns  by how much (us) the bucket was ahead of the server's clock before; 0: it was full
--
-- DEL is the first write: it is allowed when Redis is out of memory.
-- include: clock
local now = clock_us()
local used = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
local after = used + ARGV[1] * ARGV[2]
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', string.format('%.0f', math.ceil((after - now) / 1000)))
return used - now
