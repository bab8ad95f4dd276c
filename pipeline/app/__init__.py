"""`zsseg app`: students in a browser on this machine, asked for any names.

`answers` says what students (and the teacher) make of an image, `app_page` makes the page of
`app.html` and reads its questions, `app_server` serves both, with `app.js`, on 127.0.0.1.
"""
