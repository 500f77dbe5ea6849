"""What a folder of runs says of them from their files alone: nobody is asked, and a run may be under way or over."""
