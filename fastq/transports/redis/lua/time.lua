-- Return the server's clock (Unix ms).
--
-- KEYS  none
-- ARGV  none
-- include: clock
return clock()
