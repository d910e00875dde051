"""What a folder of pictures is worth: text alignment, subject alignment and diversity, by judges that read from disk.

A judge turns pictures, and some of them texts, into vectors (`judges`); `layout` and `references` say which pictures
belong to which prompt and photos, `measuring` compares the vectors, and `report` and `page` show what came of it.
"""
