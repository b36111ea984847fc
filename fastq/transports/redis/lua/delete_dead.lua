-- Drop dead letters, and the joins that were kept for them.
--
-- KEYS  1 dead, 2 dead:messages
-- ARGV  dead letters
-- Returns  how many there were
-- include: unbury
return unbury(KEYS[1], KEYS[2], ARGV, 1, #ARGV)
