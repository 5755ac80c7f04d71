"""How much was played; counted by the random stories, told at the end of the run."""

stories = 0
polls = 0

outbox_stories = 0
kills = 0
posts = 0
