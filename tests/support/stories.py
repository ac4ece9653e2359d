"""The table of stories, all of them."""

from support import stories_beyond, stories_in_tasks
from support.story import STORIES, Story

__all__ = ["STORIES", "Story", "stories_beyond", "stories_in_tasks"]
