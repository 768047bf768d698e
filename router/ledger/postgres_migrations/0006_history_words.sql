-- What was said in a request and in its answer, as JSON (router/history/words.py): filled while ROUTER_KEEP_PROMPTS
-- is true, and deleted with the request. Apart from history_requests, since lists of requests never read it.
CREATE TABLE history_words (
    request_id          text COLLATE "C" PRIMARY KEY,
    words               text NOT NULL
);
