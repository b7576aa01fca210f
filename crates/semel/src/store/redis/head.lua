-- What the scripts share: the time, and how a value is read and written.
--
-- A script is given several records, each with as many arguments, and answers one thing for each, in their order. What goes
-- wrong with one is its answer, and says nothing of the others.
--
-- A value is its head, the whole record, and what is left of the record once its content is past its time. The head is
-- 's1', stamp (18 bytes), written, retention and trims (8 each), phase (1), length of the whole record (4), and 8
-- characters of its own digest, so that damage is told from "past its retention"; records bring their own. All times are milliseconds below 2^53.

local HEAD = 57
local ARGS = #ARGV / #KEYS

local time = redis.call('TIME')
local server_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function check(fields)
  return string.sub(redis.sha1hex(fields), 1, 8)
end

-- The head of the value at `key`: stamp, written, retention, trims, phase, length of the whole record. Where there is no value,
-- nothing; where it cannot be read, false and why.
local function head_at(key)
  local bytes = redis.pcall('GETRANGE', key, 0, HEAD - 1)
  if bytes == '' then
    return nil
  end
  if type(bytes) == 'table' then
    return false, bytes
  end
  local fields = string.sub(bytes, 1, HEAD - 8)
  if #bytes ~= HEAD or string.sub(bytes, 1, 2) ~= 's1' or string.sub(bytes, HEAD - 7) ~= check(fields) then
    return false, redis.error_reply('CORRUPT the head of the value is damaged')
  end
  return string.sub(bytes, 3, 20), struct.unpack('>I8I8I8BI4', fields, 21)
end

-- A head; `tail` is what follows the time.
local function head_of(stamp, written, tail)
  local fields = 's1' .. stamp .. struct.pack('>I8', written) .. tail
  return fields .. check(fields)
end

-- What `ask` answers for each key; it is given the key and the place of its first argument.
local function each(ask)
  local answers = {}
  for n, key in ipairs(KEYS) do
    answers[n] = ask(key, (n - 1) * ARGS + 1)
  end
  return answers
end
